"""发了几份、失败了几份，按渠道的种类；给 ``/metrics``，规则 ``notifier_failing`` 看的就是它。"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..metrics import Sample


@dataclass(slots=True)
class NoticeStatistics:
    """只增，``waiting`` 除外。种类一开始就都在，值是 0：没有发过也看得见。"""

    kinds: frozenset[str]
    sent: Counter[str] = field(default_factory=Counter)
    #: 试了几次都没有说成的份数，与有收件人被拒绝的份数。
    failed: Counter[str] = field(default_factory=Counter)
    #: 等不下而丢了的告警。
    dropped: int = 0
    waiting: int = 0


def notice_samples(statistics: NoticeStatistics) -> Iterator[Sample]:
    for kind in sorted(statistics.kinds):
        label = {"channel": kind}
        yield Sample("notices_sent", "counter", "notices sent", statistics.sent[kind], label)
        yield Sample(
            "notices_failed", "counter", "notices that failed", statistics.failed[kind], label
        )
    yield Sample(
        "notices_dropped", "counter", "alerts dropped, too many waiting", statistics.dropped
    )
    yield Sample("notices_waiting", "gauge", "alerts waiting to be told", statistics.waiting)
