"""负载进程里面。"""

from __future__ import annotations

from typing import Any

from ..load_process import Control, Wire, work
from ..open_files import allow_sockets
from ..progress import OnProgress
from .crowd import Crowd, Tally
from .orders import Cut, Join, Leave, LoadOrder, Look, Post, PublishSteady, Saturate
from .poster import post
from .publisher import saturate
from .steady_publisher import publish_steady


def main(control: Control, counts: Any) -> None:
    """spawn 的入口；``counts`` 是（共享的 ``RawArray('q', n)``，自己的格号）。"""
    array, place = counts
    slots = memoryview(array).cast("B").cast("q")
    crowd = Crowd(Tally(slots[place : place + 1]))

    async def obey(order: LoadOrder, on_progress: OnProgress) -> Wire:
        match order:
            case Join():
                allow_sockets(len(order.user_ids))
                return await crowd.join(order, on_progress)
            case Cut():
                return await crowd.cut()
            case Leave():
                return await crowd.leave()
            case Look():
                return crowd.look(afresh=order.afresh)
            case PublishSteady():
                return await publish_steady(order, on_progress)
            case Saturate():
                return await saturate(order, slots)
            case Post():
                return await post(order, on_progress)

    work(control, LoadOrder, obey)
