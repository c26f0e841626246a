"""投递与队列的 REST：统计、失败与重新入队、信箱；给管理员的队列长度与死信。

不用 ``from __future__ import annotations``：见 ``message_manage.py``。
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Annotated, Any, Final, Self

from fastapi import APIRouter, Depends, Query, status
from msgspec import Meta, Struct
from pydantic import Field

from ..clock import now_ms
from ..deliver.offline_message_queue import OfflineMessageQueue
from ..errors import ForbiddenError
from ..model import FailureCause, Principal
from ..outcome.dead_letters import DeadLetter, DeadLetters, DeliveryFailures
from ..outcome.delivery_confirmation_service import (
    DAY_S,
    DeliveryConfirmationService,
    DeliveryStatistics,
)
from ..people.people import INTEGERS, People
from ..person_id import PersonId
from ..protocol.envelope import OfflineMessage
from ..queue.message_queue import MessageQueue
from ..storage.rows import FailedDelivery
from .contract_route import Out, contract_router
from .json_body import JsonBody
from .message_manage import Limit, MessageIdPath
from .persons import InPath, Who
from .security import Security


class TallyOut(Out):
    sent: int
    delivered: int
    failed: int
    expired: int
    pending: int
    withdrawn: int
    rate: float | None = Field(description="有结局的里面送达的比例；还没有结局则 null")


class BucketOut(TallyOut):
    start: int = Field(description="时段开始的时刻，毫秒")


class StatisticsOut(TallyOut):
    """发给这个用户的消息；毫秒数是从推到确认。"""

    user_id: PersonId
    window_s: int
    since: int
    retry_rate: float
    mean_ack_ms: float | None
    p95_ack_ms: int | None
    failure_reasons: dict[str, int]
    failure_causes: dict[FailureCause, int]
    by_type: dict[str, TallyOut]
    by_time: list[BucketOut]

    @classmethod
    def of_user(cls, found: DeliveryStatistics, person: PersonId) -> Self:
        return cls(
            **TallyOut.model_validate(found.total).model_dump(),
            user_id=person,
            window_s=found.window_s,
            since=found.since,
            retry_rate=found.retry_rate,
            mean_ack_ms=found.mean_ack_ms,
            p95_ack_ms=found.p95_ack_ms,
            failure_reasons=found.reasons,
            failure_causes=found.causes,
            by_type={kind: TallyOut.model_validate(tally) for kind, tally in found.by_type.items()},
            by_time=[
                BucketOut(start=start, **TallyOut.model_validate(tally).model_dump())
                for start, tally in found.by_time.items()
            ],
        )


class FailureOut(Out):
    message_id: str
    user_id: PersonId
    sender_id: PersonId
    message_type: str
    priority: int
    title: str
    attempts: int
    failed_at: int
    failure_reason: str = Field(validation_alias="reason")
    cause: FailureCause | None = Field(description="归哪一类；旧程序没有记的是 null")
    expires_at: int

    @classmethod
    def of(cls, one: FailedDelivery, shown: Mapping[int, PersonId]) -> Self:
        people = {"user_id": shown[one.user_id], "sender_id": shown[one.sender_id]}
        return cls.model_validate({**asdict(one), **people})


class FailureCausesOut(Out):
    """失败的与过期的（``reasons`` 里的 ``expired``）；``unknown`` 是旧程序没有记类的。"""

    window_s: int
    causes: dict[FailureCause, int]
    reasons: dict[str, int]
    unknown: int


class FailuresOut(Out):
    items: list[FailureOut]
    next_cursor: str | None


class OfflineMessageOut(Out):
    message_id: str
    seq: int
    message_type: str
    priority: int
    title: str
    sender_id: PersonId
    timestamp: int
    expires_at: int
    age_s: float

    @classmethod
    def of(cls, message: OfflineMessage, now: int) -> Self:
        tail = message.tail
        return cls(
            message_id=tail.message_id,
            seq=message.entry.seq,
            message_type=tail.message_type,
            priority=tail.priority,
            title=tail.title,
            sender_id=tail.sender.id or 0,
            timestamp=tail.timestamp,
            expires_at=tail.expires_at,
            age_s=max(0, now - tail.timestamp) / 1000,
        )


class OfflineMessagesOut(Out):
    """紧急者在前，同级按 seq；``count`` 是信箱里的总数。"""

    items: list[OfflineMessageOut]
    count: int


class CountOut(Out):
    count: int


class ClearedOut(Out):
    cleared: int


class DeadLetterOut(Out):
    """``message_id`` 为 null 的读不懂，不能重新入队。"""

    id: str
    died_at: int
    reason: str
    queue: str
    message_id: str | None
    recipient_ids: list[PersonId]
    priority: int | None
    attempt: int | None
    expires_at: int | None

    @classmethod
    def of(cls, letter: DeadLetter, shown: Mapping[int, PersonId]) -> Self:
        entry = letter.entry
        return cls(
            id=letter.id,
            died_at=letter.died_at,
            reason=letter.reason,
            queue=letter.queue,
            message_id=entry.message_id if entry else None,
            recipient_ids=[shown[one] for one in entry.recipient_ids] if entry else [],
            priority=entry.priority if entry else None,
            attempt=entry.attempt if entry else None,
            expires_at=entry.expires_at if entry else None,
        )


class DeadLettersOut(Out):
    items: list[DeadLetterOut]
    next_cursor: str | None


#: Redis 流的 id，不是 0-0；19 位数总小于 2^64，真的 id 是毫秒，离它还远（C2）。
LETTER_ID_PATTERN: Final = "(?:[1-9][0-9]{0,18}-[0-9]{1,19}|0-[1-9][0-9]{0,18})"
#: Python 的 ``$`` 也认末尾换行之前。
LetterId = Annotated[str, Meta(pattern=f"^{LETTER_ID_PATTERN}$(?!\\n)")]


class RequeueIn(Struct, forbid_unknown_fields=True):
    ids: Annotated[list[LetterId], Meta(min_length=1, max_length=1_000)]


class RequeuedOut(Out):
    """``skipped``：不存在、读不懂、已过期或已有结局的。"""

    requeued: list[str]
    skipped: list[str]


Window = Annotated[int, Query(ge=1, le=366 * DAY_S, description="最近多少秒")]


def delivery_router(
    confirmation: DeliveryConfirmationService,
    failures: DeliveryFailures,
    mailbox: OfflineMessageQueue,
    security: Security,
    people: People = INTEGERS,
) -> APIRouter:
    """``/deliveries…`` 与 ``/users/{id}/…``；前缀由调用者加。"""
    router = contract_router(tags=["deliveries"])
    CurrentUser = Annotated[Principal, Depends(security.allowing("admin"))]  # noqa: N806 — 类型
    Reader = Annotated[Principal, Depends(security.allowing("read"))]  # noqa: N806
    UserInPath = Annotated[Who, Depends(InPath(people))]  # noqa: N806
    admin_only = [Depends(security.require_admin)]
    reading = [Depends(security.admin_or("read"))]

    @router.get("/deliveries/failures", summary="失败的投递，新的在前", dependencies=reading)
    async def list_failures(
        cursor: Annotated[
            str | None, Query(pattern="^[0-9]{1,18}:[0-9A-Z]{26}:[0-9]{1,18}$")
        ] = None,
        limit: Limit = 50,
    ) -> FailuresOut:
        items, next_cursor = await confirmation.get_delivery_failure_messages(cursor, limit)
        shown = await people.persons(n for one in items for n in (one.user_id, one.sender_id))
        return FailuresOut(
            items=[FailureOut.of(one, shown) for one in items], next_cursor=next_cursor
        )

    @router.get(
        "/deliveries/failures/causes",
        summary="没有送达的各归哪一类、各是什么原因",
        dependencies=reading,
    )
    async def failure_causes(window_s: Window = DAY_S) -> FailureCausesOut:
        found = await confirmation.get_undelivered_statistics(window_s)
        return FailureCausesOut.model_validate(found)

    @router.post(
        "/deliveries/failures/{message_id}/{user_id}/requeue",
        summary="失败的投递从头再来",
        status_code=status.HTTP_204_NO_CONTENT,
        dependencies=admin_only,
    )
    async def requeue(message_id: MessageIdPath, who: UserInPath) -> None:
        """404：没有这样一条失败；409：消息已过期。"""
        await failures.requeue(message_id, who.number)

    @router.get("/users/{user_id}/delivery-statistics", summary="发给一个用户的投递统计")
    async def statistics(who: UserInPath, user: Reader, window_s: Window = DAY_S) -> StatisticsOut:
        _self_or_admin(user, who.number, reading=True)
        found = await confirmation.get_user_delivery_statistics(who.number, window_s)
        return StatisticsOut.of_user(found, who.person)

    @router.get("/users/{user_id}/offline-messages", summary="信箱里的消息（只读）")
    async def offline_messages(
        who: UserInPath, user: CurrentUser, limit: Limit = 100
    ) -> OfflineMessagesOut:
        _self_or_admin(user, who.number)
        found = await mailbox.get_offline_messages(who.number, limit)
        now = now_ms()
        return OfflineMessagesOut(
            items=[OfflineMessageOut.of(one, now) for one in found],
            count=await mailbox.get_offline_message_count(who.number),
        )

    @router.get("/users/{user_id}/offline-messages/count", summary="信箱里有几条")
    async def offline_message_count(who: UserInPath, user: CurrentUser) -> CountOut:
        _self_or_admin(user, who.number)
        return CountOut(count=await mailbox.get_offline_message_count(who.number))

    @router.delete("/users/{user_id}/offline-messages", summary="清空信箱")
    async def clear(who: UserInPath, user: CurrentUser) -> ClearedOut:
        """清掉的对发送者是 failed，原因 ``cleared``；收件箱（SQL）里仍看得到。"""
        _self_or_admin(user, who.number)
        return ClearedOut(cleared=await failures.clear(who.number))

    return router


def _self_or_admin(viewer: Principal, user_id: int, *, reading: bool = False) -> None:
    sees = viewer.reads_all if reading else viewer.is_admin
    if viewer.user_id != user_id and not sees:
        raise ForbiddenError("only the user and administrators")


def queue_router(
    queue: MessageQueue,
    dead_letters: DeadLetters,
    require_admin: Callable[..., object],
    people: People = INTEGERS,
) -> APIRouter:
    """``/queues…``；前缀由调用者加。"""
    router = contract_router(tags=["queues"], dependencies=[Depends(require_admin)])

    @router.get("/queues", summary="各队列的长度、未确认数、最老条目的年龄")
    async def queues() -> dict[str, list[dict[str, Any]]]:
        return {"items": [asdict(length) for length in await queue.lengths()]}

    @router.get("/queues/dead-letter", summary="死信，新的在前")
    async def list_dead_letters(
        cursor: Annotated[str | None, Query(pattern=f"^{LETTER_ID_PATTERN}$")] = None,
        limit: Limit = 50,
    ) -> DeadLettersOut:
        letters, next_cursor = await dead_letters.page(cursor, limit)
        named = [one for each in letters if each.entry for one in each.entry.recipient_ids]
        shown = await people.persons(named)
        return DeadLettersOut(
            items=[DeadLetterOut.of(letter, shown) for letter in letters], next_cursor=next_cursor
        )

    @router.post("/queues/dead-letter/requeue", summary="死信重新入队")
    async def requeue(
        body: Annotated[RequeueIn, Depends(JsonBody(RequeueIn))],
    ) -> RequeuedOut:
        requeued = await dead_letters.requeue(body.ids)
        return RequeuedOut(
            requeued=requeued, skipped=[each for each in body.ids if each not in requeued]
        )

    return router
