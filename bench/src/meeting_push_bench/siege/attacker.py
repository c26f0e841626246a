"""攻击者的进程：一种坏法做到时候为止，再答做了多少。只用一个核。"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from ..failure import BenchError
from ..load_process import Control, work
from ..open_files import allow_sockets
from ..progress import OnProgress
from .assault import Assault
from .attacks import ATTACKS
from .orders import Attack, Attacked

_SOCKETS = 1_000


def main(control: Control, _counts: Any) -> None:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    allow_sockets(_SOCKETS)
    work(control, Attack, _obey)


async def _obey(order: Attack, _on_progress: OnProgress) -> Attacked:
    assault = Assault(order.town, order.address)
    attacking = asyncio.ensure_future(ATTACKS[order.name](assault))
    done, _ = await asyncio.wait([attacking], timeout=order.seconds)
    if done:
        raise BenchError(f"{order.name} ended early: {attacking.exception()!r}")
    attacking.cancel()
    await asyncio.gather(attacking, return_exceptions=True)
    return Attacked(sent_bytes=assault.sent_bytes, answers=dict(assault.answers))
