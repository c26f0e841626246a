"""负载进程里面的主循环：听一个命令，做，答。父进程一死，管道断开，它就退出。"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Coroutine
from multiprocessing.connection import Connection
from typing import Generic, TypeVar

import msgspec
import uvloop

from .failure import BenchError
from .orders import Failed, Progress, encode

Order = TypeVar("Order")


class OrderLoop(Generic[Order]):
    def __init__(self, control: Connection[bytes, bytes], decode: Callable[[bytes], Order]) -> None:
        self._control = control
        self._decode = decode

    async def run(self, obey: Callable[[Order], Awaitable[msgspec.Struct]]) -> None:
        """做不成（``BenchError``）也是一个回答。"""
        while (order := await asyncio.to_thread(self._next)) is not None:
            try:
                answer = await obey(order)
            except BenchError as error:
                answer = Failed(reason=error.message)
            self._control.send_bytes(encode(answer))

    def on_progress(self, done: int, total: int) -> None:
        self._control.send_bytes(encode(Progress(done=done, total=total)))

    def _next(self) -> Order | None:
        try:
            return self._decode(self._control.recv_bytes())
        except EOFError:
            return None


def run_alone(main: Coroutine[None, None, None]) -> None:
    """终端的 Ctrl-C 只归父进程：它断开管道，我们随之结束。"""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    uvloop.run(main)
