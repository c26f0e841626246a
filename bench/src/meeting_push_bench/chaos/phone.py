"""一台来来去去的设备：用 ``websockets``（不是我们自己的客户端），照契约说话。"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator
from typing import Final

from .history import HistoryWriter
from .ledger import Ledger
from .owner import Owner
from .schedule import Stay
from .town import Town
from .visit import Visit

_RETRY_S: Final = 0.3


class Phone:
    """:raises BenchError: 见 ``Visit.run``"""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner

    async def run(self, stays: tuple[Stay, ...]) -> None:
        """一次接一次地在线，直到被取消。"""
        for stay in stays:
            await asyncio.sleep(stay.away_s)
            await self._stay(stay)

    async def drain(self) -> None:
        """一直在线，什么都确认，直到被取消；断了就再连。"""
        for gateway in itertools.count():
            await self._stay(_patient_stay(gateway))

    async def _stay(self, stay: Stay) -> None:
        """连不上就换下一个网关，直到连上一次，或这段时间过完。"""
        ends_at = time.monotonic() + stay.online_s
        for gateway in itertools.count(stay.gateway):
            visit = Visit(self._owner, stay, gateway % len(self._owner.town.gateways))
            if await visit.run(ends_at) or time.monotonic() > ends_at:
                return
            await asyncio.sleep(_RETRY_S)


def _patient_stay(gateway: int) -> Stay:
    return Stay(
        away_s=0,
        online_s=3600,
        gateway=gateway,
        policy="each",
        resume=False,
        stale=False,
        abort=False,
        twice=False,
        foreign=False,
    )


def phones_of(
    town: Town, ledger: Ledger, history: HistoryWriter, devices_per_user: int
) -> Iterator[Phone]:
    """次序同 ``Schedule.stays``。"""
    for user_id in ledger.users:
        for number in range(devices_per_user):
            yield Phone(Owner(town, ledger, history, user_id, f"{user_id}-{number}"))
