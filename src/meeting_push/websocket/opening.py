"""一条连接的开始与补发：先订阅，后读信箱；暂存实时帧，推完信箱再按 seq 放行。"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from ..contracts import Channels, Mailbox
from ..model import MailboxEntry, MailboxView, ResumePoint
from ..protocol.frames import BATCH_MAX_MESSAGES, batch_parts
from ..protocol.session import Phase
from .connection import UserConnection
from .patience import patiently
from .statistics import EdgeCounters
from .subscriptions import Subscriptions

#: 同时取正文的连接数：一次取 50 条可有几 MB，重连风暴时不能人人都拿着。
MAX_LOADS: Final = 64


class Opener:
    """``clock`` 给出毫秒。被取消（连接断开）时不留下任何东西。"""

    def __init__(
        self,
        channels: Channels,
        mailbox: Mailbox,
        counters: EdgeCounters,
        clock: Callable[[], int],
    ) -> None:
        self.subscriptions = Subscriptions(channels)
        self._mailbox = mailbox
        self._counters = counters
        self._clock = clock
        self._loads = asyncio.Semaphore(MAX_LOADS)

    async def first_view(self, connection: UserConnection, timeout_s: float) -> MailboxView:
        """订阅并读信箱；Redis 不可用时开着 socket 重试。

        :raises TimeoutError: ``timeout_s`` 之内没有成功
        """
        async with asyncio.timeout(timeout_s):
            return await self._read(connection, connection.device.resume)

    async def catch_up(self, connection: UserConnection) -> None:
        """重读信箱，补上这条连接没收到过的；会话须已在 FLUSHING。"""
        self._counters.rereads += 1
        view = await self._read(connection)
        connection.send_all(connection.session.reread(view))
        await self.flush(connection, view)

    async def flush(self, connection: UserConnection, view: MailboxView) -> None:
        """推完 ``view`` 里没推过的，转入 LIVE；途中漏了什么就再读一遍。"""
        session = connection.session
        await self._push_unsent(connection, view)
        while session.missed and session.phase is Phase.FLUSHING:
            view = await self._read(connection)
            connection.send_all(session.reread(view))
            await self._push_unsent(connection, view)
        if session.phase is Phase.FLUSHING:
            connection.send_all(session.finish(view, self._clock()))

    async def _push_unsent(self, connection: UserConnection, view: MailboxView) -> None:
        session = connection.session
        entries = session.unsent(view.entries)
        for start in range(0, len(entries), BATCH_MAX_MESSAGES):
            messages = await self._load(entries[start : start + BATCH_MAX_MESSAGES])
            for part in batch_parts(messages):
                await connection.writable()
                if session.phase is not Phase.FLUSHING:
                    return  # 等待时关闭了
                self._counters.flushed_messages += len(part)
                now = self._clock()
                connection.send(session.batch(part, now), now)

    async def _read(
        self, connection: UserConnection, resume: ResumePoint | None = None
    ) -> MailboxView:
        async def read() -> MailboxView:
            await self.subscriptions.ensure(connection.user_id)
            connection.session.missed = False  # 此前漏的都会在这次读取里
            return await self._mailbox.open(connection.user_id, resume)

        return await patiently(read)

    async def _load(self, entries: Sequence[MailboxEntry]) -> list[bytes]:
        async def load() -> list[bytes]:
            async with self._loads:
                return await self._mailbox.load(entries)

        return await patiently(load)
