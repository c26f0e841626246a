"""谁的信箱溢出了，谁在等它挤好。"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, KeysView


class Overflow:
    """一个进程里投递的、挤出的、连接的，在此相遇；只在内存里：忘了也无害，下一条到了再溢出一次。"""

    def __init__(self) -> None:
        #: 用户 → 上次挤过之后溢出了几次。
        self._users: dict[int, int] = {}
        self._trimmed: dict[int, asyncio.Event] = {}
        #: 有人溢出了。
        self.noted = asyncio.Event()

    def note(self, user_ids: Iterable[int]) -> None:
        """这些人的信箱溢出了。"""
        for user_id in user_ids:
            self._users[user_id] = self._users.get(user_id, 0) + 1
        if self._users:
            self.noted.set()

    @property
    def waited_for(self) -> KeysView[int]:
        """有人在等着挤好的用户。"""
        return self._trimmed.keys()

    def take(self, limit: int) -> list[int]:
        """取走至多 ``limit`` 个溢出了的用户。"""
        taken = list(self._users)[:limit]
        for user_id in taken:
            del self._users[user_id]
        if not self._users:
            self.noted.clear()
        return taken

    def note_trimmed(self, user_ids: Iterable[int]) -> None:
        """这些人的信箱挤过了；其间又溢出的不算，等着他的人等下一轮。"""
        for user_id in user_ids:
            if user_id not in self._users and (trimmed := self._trimmed.pop(user_id, None)):
                trimmed.set()

    async def wait(self, user_ids: Iterable[int], most_s: float, *, times: int = 1) -> None:
        """等到这些人里溢出了 ``times`` 次的都挤好，至多 ``most_s`` 秒。"""
        events = [
            self._trimmed.setdefault(user_id, asyncio.Event())
            for user_id in user_ids
            if self._users.get(user_id, 0) >= times
        ]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(most_s):
                for trimmed in events:
                    await trimmed.wait()
