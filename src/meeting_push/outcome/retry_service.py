"""重试：网关交来等不到确认的推送，成批认领，经延迟队列以原来的 seq 再推（docs/delivery.md“重试”）。

时刻表在各连接的内存里（``protocol/sent.py``），Redis 只裁决“这一次重试归谁”。没有连接的
用户从不重试：消息在信箱里等他，直到过期。
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final, NamedTuple

from ..clock import Clock, now_ms
from ..contracts import RetrySettled, WhyUnanswered
from ..logs import RepeatedWarning
from ..model import NO_ACK, FailureCause
from ..node.flight_recorder import OFF, FlightRecorder
from ..protocol.sent import Overdue
from ..redis.outcomes import Claimed, Outcomes, Verdict
from ..storage.id_list import Recipient
from ..storage.outcomes import OutcomeRepository
from ..supervision import Aside
from .batch_writer import BatchWriter
from .dead_letters import DeliveryFailures

BATCH: Final = 1_000
#: 等 Redis 回来的登记至多这么多；再多就放手：连接隔一级还会再交来。
MAX_WAITING: Final = 100_000


class _Claim(NamedTuple):
    message_id: str
    user_id: int
    attempt: int
    settle: RetrySettled
    why: WhyUnanswered


class RetryService:
    """实现 ``contracts.RetrySink``。"""

    def __init__(
        self,
        *,
        outcomes: Outcomes,
        record: OutcomeRepository,
        failures: DeliveryFailures,
        max_attempts: int,
        aside: Aside,
        recorder: FlightRecorder = OFF,
        clock: Clock = now_ms,
    ) -> None:
        self._recorder = recorder
        self._outcomes = outcomes
        self._record = record
        self._failures = failures
        self._max_attempts = max_attempts
        self._clock = clock
        self._writer = BatchWriter[_Claim](
            self._claim_batch,
            deferred=RepeatedWarning("retry_deferred"),
            batch_rows=BATCH,
            aside=aside,
        )
        #: 认领循环；Redis 或 SQL 不在时留着重试。
        self.run = self._writer.run
        #: 认领到的重试数、放弃的登记数、用完次数的失败数。
        self.retried = self.dropped = self.failed = 0

    def claim(
        self, user_id: int, overdue: Sequence[Overdue], settle: RetrySettled, why: WhyUnanswered
    ) -> None:
        if len(self._writer) >= MAX_WAITING:
            self.dropped += len(overdue)
            return
        self._writer.add(_Claim(o.message_id, user_id, o.attempt, settle, why) for o in overdue)

    async def _claim_batch(self, batch: Sequence[_Claim]) -> None:
        """整批重来无害：认领到的再登记一次会得到 ``STALE``，失败是幂等的。"""
        answers = await self._outcomes.claim(
            [(c.message_id, c.user_id, c.attempt) for c in batch],
            self._max_attempts,
            self._clock(),
        )
        for claim, answer in zip(batch, answers, strict=True):
            self._settle(claim, answer)
        pairs = list(zip(batch, answers, strict=True))
        claimed = [(c, a) for c, a in pairs if a.verdict is Verdict.CLAIMED]
        self.retried += len(claimed)
        at = self._clock()
        self._recorder.retried.extend((at, c.message_id, c.user_id, a.attempts) for c, a in claimed)
        await self._record.record_attempts(
            [
                (c.message_id, c.user_id, a.attempts)
                for c, a in pairs
                if a.verdict in (Verdict.CLAIMED, Verdict.STALE)
            ]
        )
        await self._fail([c for c, a in pairs if a.verdict is Verdict.EXHAUSTED])

    async def _fail(self, exhausted: Sequence[_Claim]) -> None:
        by_cause: defaultdict[FailureCause, list[Recipient]] = defaultdict(list)
        for claim in exhausted:
            by_cause[claim.why()].append((claim.message_id, claim.user_id))
        for cause, pairs in by_cause.items():
            self.failed += await self._failures.fail(pairs, NO_ACK, cause=cause)

    @staticmethod
    def _settle(claim: _Claim, answer: Claimed) -> None:
        if answer.verdict is Verdict.GONE:
            claim.settle(claim.message_id, None)
        elif answer.verdict in (Verdict.CLAIMED, Verdict.STALE):
            claim.settle(claim.message_id, answer.attempts)
