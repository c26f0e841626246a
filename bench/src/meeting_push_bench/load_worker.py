"""负载进程里面。"""

from __future__ import annotations

from multiprocessing.connection import Connection
from typing import Any

from .fleet import Fleet
from .open_files import allow_sockets
from .order_loop import OrderLoop, run_alone
from .orders import (
    Answer,
    Connect,
    Connected,
    Disconnect,
    Disconnected,
    Order,
    Publish,
    PublishPaced,
    SendBurst,
    SendPaced,
    decode_order,
)
from .paced_publisher import publish_paced
from .publisher import publish
from .sender import send_burst, send_paced


def main(control: Connection[bytes, bytes], received: Any) -> None:
    """spawn 的入口；``received`` 是共享的 ``RawArray('q', 1)``。"""
    run_alone(_Worker(control, memoryview(received).cast("B").cast("q")).run())


class _Worker:
    def __init__(self, control: Connection[bytes, bytes], received: memoryview) -> None:
        self._loop = OrderLoop(control, decode_order)
        self._received = received
        self._fleet = Fleet(received)

    async def run(self) -> None:
        await self._loop.run(self._obey)

    async def _obey(self, order: Order) -> Answer:
        match order:
            case Connect():
                allow_sockets(len(order.user_ids) * order.devices)
                elapsed = await self._fleet.connect(order, self._loop.on_progress)
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
