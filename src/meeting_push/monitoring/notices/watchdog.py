"""看门狗：规则 ``watchdog`` 一直触发，每分钟往另一头的开关（healthchecks 之类）说一声。

那一头听不到了就该去叫人：评估停了、进程没了、网断了都是。所以评估不再来说，心跳也停。
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from ...errors import ChannelFailedError
from ...supervision import periodically, woken
from ..alerts.model import Alert, AlertState
from .courier import Courier, Timings

RULE: Final = "watchdog"


class Watchdog:
    """``couriers``：收心跳的渠道，它们不收别的。"""

    def __init__(
        self, couriers: Sequence[Courier], timings: Timings, monotonic: Callable[[], float]
    ) -> None:
        self._couriers = couriers
        self._timings = timings
        self._monotonic = monotonic
        self._alert: Alert | None = None
        self._heard_at = 0.0
        self._next_at = 0.0
        self._wake = asyncio.Event()

    def hear(self, alert: Alert) -> None:
        """评估说它还活着。"""
        if alert.state is AlertState.RESOLVED:
            self.stop()
            return
        if self._alert is None:
            self._wake.set()
        self._alert, self._heard_at = alert, self._monotonic()

    def stop(self) -> None:
        self._alert = None

    async def beat(self) -> None:
        """一个循环。"""
        await periodically(self._step, self._pause)

    async def _step(self) -> None:
        self._wake.clear()
        now = self._monotonic()
        alert = self._alert
        if alert is None or now < self._next_at:
            return
        if now - self._heard_at > self._timings.stale_s:
            self._alert = None
            return
        self._next_at = now + self._timings.beat_s
        await asyncio.gather(*(_told(courier, alert) for courier in self._couriers))

    async def _pause(self) -> None:
        left_s = self._next_at - self._monotonic()
        await woken(self._wake, left_s if self._alert and left_s > 0 else self._timings.beat_s)


async def _told(courier: Courier, alert: Alert) -> None:
    try:
        await courier.deliver([alert])
    except ChannelFailedError:
        return  # 数过、说过；下一次心跳不远
