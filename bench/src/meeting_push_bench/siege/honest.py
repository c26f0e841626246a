"""老实人的进程。"""

from __future__ import annotations

from multiprocessing.connection import Connection
from typing import Any

from ..failure import BenchError
from ..order_loop import OrderLoop, run_alone
from .life import Life
from .orders import Attack, Live, Lived, decode_order


def main(control: Connection[bytes, bytes], _received: Any) -> None:
    run_alone(OrderLoop(control, decode_order).run(_obey))


async def _obey(order: Attack | Live) -> Lived:
    if not isinstance(order, Live):
        raise BenchError("honest people do not attack")
    life = Life(order.town, order.plan, order.address, order.forwarded)
    return await life.live(order.seconds)
