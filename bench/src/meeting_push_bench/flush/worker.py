"""持有归来者的进程里面。"""

from __future__ import annotations

from multiprocessing.connection import Connection
from typing import Any

from ..open_files import allow_sockets
from ..order_loop import OrderLoop, run_alone
from .orders import FlushAnswer, FlushOrder, Gone, Return, decode_flush_order
from .returning import Returners


def main(control: Connection[bytes, bytes], _received: Any) -> None:
    """spawn 的入口；没有共享的计数。"""
    run_alone(_Worker(control).run())


class _Worker:
    def __init__(self, control: Connection[bytes, bytes]) -> None:
        self._loop = OrderLoop(control, decode_flush_order)
        self._returners = Returners()

    async def run(self) -> None:
        await self._loop.run(self._obey)

    async def _obey(self, order: FlushOrder) -> FlushAnswer:
        if isinstance(order, Return):
            allow_sockets(len(order.user_ids))
            return await self._returners.welcome_back(order, self._loop.on_progress)
        return Gone(lost=await self._returners.go_away())
