"""投递统计：把按组汇总的行算成率。"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import ceil
from typing import Final, TypeVar

from ..model import DeliveryStatus
from ..storage.recipients import DeliveryReports
from ..storage.rows import OutcomeRow

#: 一个窗口分成这么多个时段。
BUCKETS: Final = 24

Key = TypeVar("Key", int, str)


@dataclass(slots=True)
class Tally:
    """一组收件人的各状态人数。"""

    sent: int = 0
    delivered: int = 0
    failed: int = 0
    expired: int = 0
    pending: int = 0

    def add(self, status: DeliveryStatus, count: int) -> None:
        self.sent += count
        setattr(self, status.value, getattr(self, status.value) + count)

    @property
    def rate(self) -> float | None:
        """有了结局的里面送达的比例；还没有任何结局则 None。"""
        settled = self.delivered + self.failed + self.expired
        return self.delivered / settled if settled else None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryStatistics:
    """发给一个用户的消息的统计；``*_ms`` 是从（最后一次）推到确认的毫秒数，没有送达则 None。

    ``retry_rate`` 是重试过的比例；``by_time`` 的键是时段开始的毫秒，空的时段不出现。
    """

    user_id: int
    since: int
    window_s: int
    total: Tally
    retry_rate: float
    mean_ack_ms: float | None
    p95_ack_ms: int | None
    reasons: dict[str, int] = field(default_factory=dict)
    by_type: dict[str, Tally] = field(default_factory=dict)
    by_time: dict[int, Tally] = field(default_factory=dict)


async def user_statistics(
    reports: DeliveryReports, user_id: int, window_s: int, now: int
) -> DeliveryStatistics:
    """``now`` 之前 ``window_s`` 秒里接受的、发给该用户的消息。"""
    since = max(0, now - window_s * 1000)
    width = max(1, ceil(window_s * 1000 / BUCKETS))
    rows = await reports.outcomes(user_id, since, width)
    total = Tally()
    for row in rows:
        total.add(row.status, row.count)
    p95 = None
    if total.delivered:
        p95 = await reports.ack_time_at(user_id, since, ceil(total.delivered * 0.95) - 1)
    return DeliveryStatistics(
        user_id=user_id,
        since=since,
        window_s=window_s,
        total=total,
        retry_rate=sum(row.retried for row in rows) / total.sent if total.sent else 0.0,
        mean_ack_ms=(
            sum(row.to_ack_ms for row in rows) / total.delivered if total.delivered else None
        ),
        p95_ack_ms=p95,
        reasons=_reasons(rows),
        by_type=_tallies(rows, lambda row: row.message_type),
        by_time=_tallies(rows, lambda row: since + row.bucket * width),
    )


def _reasons(rows: Iterable[OutcomeRow]) -> dict[str, int]:
    reasons: dict[str, int] = {}
    for row in rows:
        if row.status is DeliveryStatus.FAILED and row.reason is not None:
            reasons[row.reason] = reasons.get(row.reason, 0) + row.count
    return reasons


def _tallies(rows: Iterable[OutcomeRow], key: Callable[[OutcomeRow], Key]) -> dict[Key, Tally]:
    tallies: dict[Key, Tally] = {}
    for row in sorted(rows, key=key):
        tallies.setdefault(key(row), Tally()).add(row.status, row.count)
    return tallies
