"""投递状态、信箱与队列的 REST 里来往的 JSON。"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta, Struct
from pydantic import BaseModel, Field

from ..deliver.offline_message_queue import OfflineMessage
from ..outcome.dead_letters import DeadLetter
from ..outcome.statistics import DeliveryStatistics, Tally
from ..storage.rows import FailedDelivery


class TallyOut(BaseModel):
    sent: int
    delivered: int
    failed: int
    expired: int
    pending: int
    rate: float | None = Field(description="有结局的里面送达的比例；还没有结局则 null")

    @classmethod
    def of(cls, tally: Tally) -> TallyOut:
        return cls(
            sent=tally.sent,
            delivered=tally.delivered,
            failed=tally.failed,
            expired=tally.expired,
            pending=tally.pending,
            rate=tally.rate,
        )


class BucketOut(TallyOut):
    start: int = Field(description="时段开始的时刻，毫秒")


class StatisticsOut(TallyOut):
    """发给这个用户的消息；毫秒数是从推到确认。"""

    user_id: int
    window_s: int
    since: int
    retry_rate: float
    mean_ack_ms: float | None
    p95_ack_ms: int | None
    failure_reasons: dict[str, int]
    by_type: dict[str, TallyOut]
    by_time: list[BucketOut]

    @classmethod
    def of_user(cls, found: DeliveryStatistics) -> StatisticsOut:
        return cls(
            **TallyOut.of(found.total).model_dump(),
            user_id=found.user_id,
            window_s=found.window_s,
            since=found.since,
            retry_rate=found.retry_rate,
            mean_ack_ms=found.mean_ack_ms,
            p95_ack_ms=found.p95_ack_ms,
            failure_reasons=found.reasons,
            by_type={kind: TallyOut.of(tally) for kind, tally in found.by_type.items()},
            by_time=[
                BucketOut(start=start, **TallyOut.of(tally).model_dump())
                for start, tally in found.by_time.items()
            ],
        )


class FailureOut(BaseModel):
    message_id: str
    user_id: int
    sender_id: int
    message_type: str
    priority: int
    title: str
    attempts: int
    failed_at: int
    failure_reason: str
    expires_at: int

    @classmethod
    def of(cls, failure: FailedDelivery) -> FailureOut:
        return cls(
            message_id=failure.message_id,
            user_id=failure.user_id,
            sender_id=failure.sender_id,
            message_type=failure.message_type,
            priority=failure.priority,
            title=failure.title,
            attempts=failure.attempts,
            failed_at=failure.failed_at,
            failure_reason=failure.reason,
            expires_at=failure.expires_at,
        )


class FailuresOut(BaseModel):
    items: list[FailureOut]
    next_cursor: str | None


class OfflineMessageOut(BaseModel):
    message_id: str
    seq: int
    message_type: str
    priority: int
    title: str
    sender_id: int
    timestamp: int
    expires_at: int
    age_s: float

    @classmethod
    def of(cls, message: OfflineMessage, now: int) -> OfflineMessageOut:
        tail = message.tail
        return cls(
            message_id=tail.message_id,
            seq=message.entry.seq,
            message_type=tail.message_type,
            priority=tail.priority,
            title=tail.title,
            sender_id=tail.sender.id,
            timestamp=tail.timestamp,
            expires_at=tail.expires_at,
            age_s=max(0, now - tail.timestamp) / 1000,
        )


class OfflineMessagesOut(BaseModel):
    """紧急者在前，同级按 seq；``count`` 是信箱里的总数。"""

    items: list[OfflineMessageOut]
    count: int


class CountOut(BaseModel):
    count: int


class ClearedOut(BaseModel):
    cleared: int


class DeadLetterOut(BaseModel):
    """``message_id`` 为 null 的读不懂，不能重新入队。"""

    id: str
    died_at: int
    reason: str
    queue: str
    message_id: str | None
    recipient_ids: list[int]
    priority: int | None
    attempt: int | None
    expires_at: int | None

    @classmethod
    def of(cls, letter: DeadLetter) -> DeadLetterOut:
        entry = letter.entry
        return cls(
            id=letter.id,
            died_at=letter.died_at,
            reason=letter.reason,
            queue=letter.queue,
            message_id=entry.message_id if entry else None,
            recipient_ids=list(entry.recipient_ids) if entry else [],
            priority=entry.priority if entry else None,
            attempt=entry.attempt if entry else None,
            expires_at=entry.expires_at if entry else None,
        )


class DeadLettersOut(BaseModel):
    items: list[DeadLetterOut]
    next_cursor: str | None


#: Redis 流的 id，不是 0-0；19 位数总小于 2^64，真的 id 是毫秒，离它还远（C2）。
LETTER_ID_PATTERN: Final = "(?:[1-9][0-9]{0,18}-[0-9]{1,19}|0-[1-9][0-9]{0,18})"
#: Python 的 ``$`` 也认末尾换行之前。
LetterId = Annotated[str, Meta(pattern=f"^{LETTER_ID_PATTERN}$(?!\\n)")]


class RequeueIn(Struct, forbid_unknown_fields=True):
    ids: Annotated[list[LetterId], Meta(min_length=1, max_length=1_000)]


class RequeuedOut(BaseModel):
    """``skipped``：不存在、读不懂、已过期或已有结局的。"""

    requeued: list[str]
    skipped: list[str]
