"""证人：同一个服务器上的一个普通用户，一直在收、一直在确认；慢了或漏了就是发现。"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from meeting_push.monitoring.latency import LatencyHistogram

from .. import load_worker
from ..accounts import Accounts
from ..failure import BenchError
from ..load_process import LoadProcess, shared_count
from ..orders import Connect, Connected, Disconnect, Disconnected, Paced, SendPaced
from ..progress import silent
from ..target import Target

RATE_PER_S: Final = 20
#: 一段：这么久的发送，然后等它全部到达；不到齐就失败。
SECTION_S: Final = 1.0
_ORDER_TIMEOUT_S: Final = 120.0


class Witness:
    """``latency``：从预定的发送时刻到帧到达，微秒。``failure`` 非空即证人受了害。"""

    def __init__(self, target: Target, accounts: Accounts, load: LoadProcess) -> None:
        self.latency = LatencyHistogram()
        self.failure: str | None = None
        self.stopping = False
        self._target = target
        self._accounts = accounts
        self._load = load

    async def connect(self) -> None:
        order = Connect(
            target=self._target,
            user_ids=self._accounts.recipient_ids,
            devices=1,
            kind="ack",
            frame_bytes=0,
            concurrency=1,
            heartbeat_interval_s=1,
        )
        await asyncio.to_thread(self._load.ask, order, Connected, _ORDER_TIMEOUT_S, silent)

    async def live(self) -> None:
        """一段接一段，直到 ``stopping`` 或受害。"""
        order = SendPaced(
            target=self._target,
            token=self._target.token(self._accounts.sender_id),
            recipient_ids=self._accounts.recipient_ids,
            rate_per_s=RATE_PER_S,
            duration_s=SECTION_S,
        )
        while self.failure is None and not self.stopping:
            try:
                paced = await asyncio.to_thread(
                    self._load.ask, order, Paced, _ORDER_TIMEOUT_S, silent
                )
            except BenchError as error:
                self.failure = error.message
            else:
                self.latency = self.latency.merge(paced.latency)

    async def leave(self) -> int:
        """断开；返回 1 如果服务器早就断开了它。"""
        answer = await asyncio.to_thread(
            self._load.ask, Disconnect(), Disconnected, _ORDER_TIMEOUT_S, silent
        )
        return answer.lost


@contextlib.asynccontextmanager
async def witness(target: Target, accounts: Accounts) -> AsyncIterator[Witness]:
    """期间证人在线，但要 ``living`` 才有消息。"""
    with LoadProcess(load_worker.main, shared_count()) as load:
        one = Witness(target, accounts, load)
        await one.connect()
        yield one
        if await one.leave():
            one.failure = one.failure or "the server closed the witness"


@contextlib.asynccontextmanager
async def living(one: Witness) -> AsyncIterator[None]:
    """期间消息不断，至少一段；离开时等手头的一段收齐，``one.latency`` 是这期间的。"""
    one.latency, one.stopping = LatencyHistogram(), False
    task = asyncio.create_task(one.live())
    try:
        yield
    finally:
        one.stopping = True
        await task
