"""谁的频道已经订上：第一台设备订阅，最后一台离开时退订。"""

from __future__ import annotations

import asyncio

from ..contracts import Channels


class Subscriptions:
    """同一用户的几台设备同时连上时共等一次确认；退订后的重连重新等。"""

    def __init__(self, channels: Channels) -> None:
        self._channels = channels
        #: 正在订阅的有任务；已确认的为 None。
        self._active: dict[int, asyncio.Task[None] | None] = {}

    async def ensure(self, user_id: int) -> None:
        """返回时已确认：此后发布的都会到达。一台设备中途离开不影响另一台的等待。"""
        if user_id not in self._active:
            self._active[user_id] = asyncio.create_task(self._subscribe(user_id))
        task = self._active[user_id]
        if task is not None:
            await asyncio.shield(task)

    async def _subscribe(self, user_id: int) -> None:
        task = asyncio.current_task()
        try:
            await self._channels.subscribe(user_id)
        except BaseException:
            if self._active.get(user_id) is task:
                del self._active[user_id]
            raise
        if self._active.get(user_id) is task:
            self._active[user_id] = None

    def release(self, user_id: int) -> None:
        """最后一台设备走了。"""
        task = self._active.pop(user_id, None)
        if task is not None:
            task.cancel()
        self._channels.unsubscribe(user_id)
