"""负载进程里面：听一个命令，做，答。父进程一死，管道断开，它就退出。"""

from __future__ import annotations

import asyncio
import signal
from multiprocessing.connection import Connection
from typing import Any

import uvloop

from .failure import BenchError
from .fleet import Fleet
from .open_files import allow_sockets
from .orders import (
    Answer,
    Connect,
    Connected,
    Disconnect,
    Disconnected,
    Failed,
    Order,
    Progress,
    Publish,
    PublishPaced,
    SendBurst,
    SendPaced,
    decode_order,
    encode,
)
from .paced_publisher import publish_paced
from .publisher import publish
from .sender import send_burst, send_paced


def main(control: Connection[bytes, bytes], received: Any) -> None:
    """spawn 的入口；``received`` 是共享的 ``RawArray('q', 1)``。"""
    # 终端的 Ctrl-C 只归父进程：它断开管道，我们随之结束
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    uvloop.run(_Worker(control, memoryview(received).cast("B").cast("q")).run())


class _Worker:
    def __init__(self, control: Connection[bytes, bytes], received: memoryview) -> None:
        self._control = control
        self._received = received
        self._fleet = Fleet(received)

    async def run(self) -> None:
        while (order := await asyncio.to_thread(self._next_order)) is not None:
            try:
                answer = await self._obey(order)
            except BenchError as error:
                answer = Failed(reason=error.message)
            self._control.send_bytes(encode(answer))

    def _next_order(self) -> Order | None:
        try:
            return decode_order(self._control.recv_bytes())
        except EOFError:
            return None

    async def _obey(self, order: Order) -> Answer:
        match order:
            case Connect():
                allow_sockets(len(order.user_ids) * order.devices)
                elapsed = await self._fleet.connect(order, self._on_progress)
                return Connected(elapsed_s=elapsed)
            case Disconnect():
                return Disconnected(lost=await self._fleet.disconnect())
            case Publish():
                return await publish(order, self._count)
            case SendBurst():
                return await send_burst(order, self._fleet.arrivals)
            case SendPaced():
                return await send_paced(order, self._fleet.arrivals)
            case PublishPaced():
                return await publish_paced(order, self._fleet.arrivals)

    def _count(self) -> int:
        count: int = self._received[0]
        return count

    def _on_progress(self, done: int, total: int) -> None:
        self._control.send_bytes(encode(Progress(done=done, total=total)))
