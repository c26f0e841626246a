"""要做多少；写进报告。"""

from __future__ import annotations

from typing import Final

import msgspec


class FlushPlan(msgspec.Struct, frozen=True, kw_only=True):
    """``users`` 个人一起回来，此前有 ``alone`` 个先后单独回来；每人 ``messages`` 条。

    ``neighbours`` 一直在线，每秒给他们 ``rate_per_s`` 条（耐久与瞬时各这么多）；他们的延迟在前、
    后各量 ``quiet_s``，回来的时候每 ``window_s`` 一段地量到完。
    """

    users: int = 1_000
    messages: int = 1_000
    alone: int = 5
    neighbours: int = 20
    rate_per_s: float = 50
    warm_up_s: float = 3
    quiet_s: float = 16
    window_s: float = 4
    content_bytes: int = 100
    posters: int = 4
    heartbeat_interval_s: float = 20

    @property
    def total(self) -> int:
        return self.users * self.messages


QUICK_FLUSH: Final = FlushPlan(
    users=10,
    messages=60,
    alone=1,
    neighbours=3,
    rate_per_s=20,
    warm_up_s=0.5,
    quiet_s=1,
    window_s=1,
)
