"""一个用户的令牌能发多少：先算价，再整个取走或一点不取。纯的，``now`` 是毫秒。"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

from ..errors import SendLimitError, TooExpensiveError
from ..model import URGENT_PRIORITY, Draft
from .keyed_rate import KeyedBuckets

UNIT_BYTES: Final = 1024
#: 紧急的只有总额的这么多分之一：人人都紧急，就没有人紧急。
URGENT_SHARE: Final = 10


class Cost(NamedTuple):
    """一次请求的价钱；``urgent`` 是其中紧急（优先级 5–9）的那部分。"""

    units: int
    urgent: int


def cost_of(drafts: Iterable[Draft]) -> Cost:
    """收件人每人一份，正文（标题、内容、``data``）每满 1 KB 再一份。"""
    priced = [(_units(draft), draft.priority >= URGENT_PRIORITY) for draft in drafts]
    return Cost(sum(units for units, _ in priced), sum(units for units, urgent in priced if urgent))


def _units(draft: Draft) -> int:
    size = len(draft.title.encode()) + len(draft.content.encode())
    if draft.data is not None:
        size += len(msgspec.json.encode(draft.data))
    return len(draft.recipient_ids) + size // UNIT_BYTES


class SendLimits:
    """每个用户两只桶：全部的，紧急的。``per_s`` 为 0 表示不限。"""

    def __init__(self, per_s: float, burst: float) -> None:
        self.unlimited = per_s == 0
        self._burst = burst
        self._all = KeyedBuckets(per_s, burst, exact=True)
        urgent_burst = max(1, burst / URGENT_SHARE)
        self._urgent = KeyedBuckets(per_s / URGENT_SHARE, urgent_burst, exact=True)

    def take(self, user_id: int, cost: Cost, now: int) -> None:
        """两只桶都够才取。

        :raises TooExpensiveError: 比桶还大，等多久都不行
        :raises SendLimitError: 此刻不够；``limit`` 说是哪一只桶
        """
        if self.unlimited:
            return
        if cost.units > self._burst:
            raise TooExpensiveError(cost.units, self._burst)
        for limit, buckets, amount in (
            ("priority", self._urgent, cost.urgent),
            ("sends", self._all, cost.units),
        ):
            wait_ms = buckets.wait_ms(user_id, amount, now)
            if wait_ms > 0:
                raise _refusal(limit, wait_ms)
        self._urgent.take(user_id, now, cost.urgent)
        self._all.take(user_id, now, cost.units)

    def look(self, user_id: int, units: int, now: int) -> None:
        """至少要 ``units`` 份，此刻够不够；不取。装不下的留给 ``take`` 说。

        :raises SendLimitError: 此刻不够
        """
        wait_ms = 0 if self.unlimited else self._all.wait_ms(user_id, units, now)
        if 0 < wait_ms < math.inf:
            raise _refusal("sends", wait_ms)


def _refusal(limit: str, wait_ms: float) -> SendLimitError:
    """``inf``：比紧急的那只桶还大。照样是 429（契约），但说明重来无用：要分开发。"""
    if math.isinf(wait_ms):
        return SendLimitError(limit, 1, temporary=False)
    return SendLimitError(limit, max(1, math.ceil(wait_ms / 1000)), temporary=True)
