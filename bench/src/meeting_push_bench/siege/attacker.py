"""攻击者的进程：一种坏法做到时候为止，再答做了多少。只用一个核。"""

from __future__ import annotations

import asyncio
import os
from multiprocessing.connection import Connection
from typing import Any

from ..failure import BenchError
from ..open_files import allow_sockets
from ..order_loop import OrderLoop, run_alone
from .assault import Assault
from .attacks import ATTACKS
from .orders import Attack, Attacked, Live, decode_order

_SOCKETS = 1_000


def main(control: Connection[bytes, bytes], _received: Any) -> None:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    allow_sockets(_SOCKETS)
    run_alone(OrderLoop(control, decode_order).run(_obey))


async def _obey(order: Attack | Live) -> Attacked:
    if not isinstance(order, Attack):
        raise BenchError("the attacker only attacks")
    assault = Assault(order.town, order.address)
    attacking = asyncio.ensure_future(ATTACKS[order.name](assault))
    done, _ = await asyncio.wait([attacking], timeout=order.seconds)
    if done:
        raise BenchError(f"{order.name} ended early: {attacking.exception()!r}")
    attacking.cancel()
    await asyncio.gather(attacking, return_exceptions=True)
    return Attacked(sent_bytes=assault.sent_bytes, answers=dict(assault.answers))
