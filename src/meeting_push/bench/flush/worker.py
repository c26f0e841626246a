"""持有归来者的进程里面：听一个命令，做，答。父进程一死，管道断开，它就退出。"""

from __future__ import annotations

import asyncio
import signal
from multiprocessing.connection import Connection
from typing import Any

import uvloop

from ..failure import BenchError
from ..open_files import allow_sockets
from ..orders import Failed, Progress, encode
from .orders import FlushAnswer, FlushOrder, Gone, Return, decode_flush_order
from .returning import Returners


def main(control: Connection[bytes, bytes], _received: Any) -> None:
    """spawn 的入口；没有共享的计数。"""
    # 终端的 Ctrl-C 只归父进程：它断开管道，我们随之结束
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    uvloop.run(_Worker(control).run())


class _Worker:
    def __init__(self, control: Connection[bytes, bytes]) -> None:
        self._control = control
        self._returners = Returners()

    async def run(self) -> None:
        while (order := await asyncio.to_thread(self._next_order)) is not None:
            try:
                answer = await self._obey(order)
            except BenchError as error:
                answer = Failed(reason=error.message)
            self._control.send_bytes(encode(answer))

    def _next_order(self) -> FlushOrder | None:
        try:
            return decode_flush_order(self._control.recv_bytes())
        except EOFError:
            return None

    async def _obey(self, order: FlushOrder) -> FlushAnswer:
        if isinstance(order, Return):
            allow_sockets(len(order.user_ids))
            return await self._returners.welcome_back(order, self._on_progress)
        return Gone(lost=await self._returners.go_away())

    def _on_progress(self, done: int, total: int) -> None:
        self._control.send_bytes(encode(Progress(done=done, total=total)))
