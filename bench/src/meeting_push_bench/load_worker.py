"""负载进程里面：持有设备，发布瞬时帧，POST 消息。"""

from __future__ import annotations

from typing import Any

from .fleet import Fleet
from .load_process import Control, Wire, work
from .open_files import allow_sockets
from .orders import (
    Connect,
    Connected,
    Disconnect,
    Disconnected,
    Order,
    PublishPaced,
    Saturate,
    SendBurst,
    SendPaced,
)
from .progress import OnProgress
from .publisher import publish_paced, saturate
from .sender import send_burst, send_paced


def main(control: Control, received: Any) -> None:
    """spawn 的入口；``received`` 是共享的 ``RawArray('q', 1)``。"""
    counts = memoryview(received).cast("B").cast("q")
    fleet = Fleet(counts)

    async def obey(order: Order, on_progress: OnProgress) -> Wire:
        match order:
            case Connect():
                allow_sockets(len(order.user_ids) * order.devices)
                return Connected(elapsed_s=await fleet.connect(order, on_progress))
            case Disconnect():
                return Disconnected(lost=await fleet.disconnect())
            case Saturate():
                return await saturate(order, counts)
            case SendBurst():
                return await send_burst(order, fleet.arrivals)
            case SendPaced():
                return await send_paced(order, fleet.arrivals)
            case PublishPaced():
                return await publish_paced(order, fleet.arrivals)

    work(control, Order, obey)
