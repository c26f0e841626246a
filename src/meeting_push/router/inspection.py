"""给操作页的 REST：看一个人，看谁的信箱最满、最旧，跟着一条消息。都只给管理员。

不用 ``from __future__ import annotations``：见 ``message_manage.py``。
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Annotated, Literal, Self

from fastapi import APIRouter, Depends, Query
from pydantic import Field

from ..clock import now_ms
from ..model import PresenceStatus
from ..monitoring.inspection import Inspected, Inspector, MailboxOrder
from ..monitoring.message_trace import Trace, TracedRecipient, Tracer
from ..people.people import INTEGERS, People
from ..person_id import PersonId
from ..redis.presence import overall_status
from .contract_route import Out, contract_router
from .delivery_manage import OfflineMessageOut
from .message_manage import Limit, MessageIdPath
from .persons import InPath, PersonText, Who, who
from .presence_manage import ConnectionOut

#: 号 → 对外的 id。
Shown = Mapping[int, PersonId]


class MailboxOut(Out):
    user_id: PersonId
    name: str | None = Field(description="人归应用时没有")
    count: int
    oldest_age_ms: int | None
    online: bool


class MailboxesOut(Out):
    """走一遍键空间得来的：``complete`` 为假是还没走完一遍，再问一次接着走。"""

    items: list[MailboxOut]
    complete: bool
    at: int = Field(description="走完那一遍的时刻，毫秒")


class NodeConnectionOut(ConnectionOut):
    node_id: str = Field(validation_alias="node")


class HeldOut(Out):
    """``items`` 紧急者在前，同级按 seq。"""

    count: int
    oldest_age_ms: int | None
    items: list[OfflineMessageOut]


class RecentOut(Out):
    message_id: str
    title: str
    message_type: str
    priority: int
    timestamp: int
    deliver_at: int | None
    status: str
    attempts: int
    sent_at: int | None
    delivered_at: int | None
    failed_at: int | None
    failure_reason: str | None
    read_at: int | None


class InspectedOut(Out):
    user_id: PersonId
    name: str | None
    online: bool
    status: PresenceStatus | None
    connections: list[NodeConnectionOut]
    mailbox: HeldOut
    last_messages: list[RecentOut] = Field(description="新的在前，不带正文")

    @classmethod
    def of(cls, found: Inspected, person: PersonId) -> Self:
        now, status = now_ms(), overall_status(found.connections)
        held = [OfflineMessageOut.of(one, now) for one in found.held]
        return cls(
            user_id=person,
            name=found.name,
            online=status is not None,
            status=status,
            connections=[NodeConnectionOut.model_validate(one) for one in found.connections],
            mailbox=HeldOut(count=found.count, oldest_age_ms=found.oldest_age_ms, items=held),
            last_messages=[RecentOut.model_validate(one) for one in found.recent],
        )


class TraceEventOut(Out):
    stage: str = Field(
        description="accepted enqueued taken delivered pushed acked retried failed expired read"
    )
    at: int
    node_id: str | None
    source: Literal["record", "recorder"] = Field(
        description="record：SQL 记着的；recorder：某个进程内存里的"
    )
    detail: str | None


class TracedRecipientOut(Out):
    user_id: PersonId
    status: str
    attempts: int
    failure_reason: str | None
    events: list[TraceEventOut] = Field(description="早的在前")

    @classmethod
    def of(cls, found: TracedRecipient, shown: Shown) -> Self:
        times = found.times
        return cls(
            user_id=shown[times.user_id],
            status=times.status,
            attempts=times.attempts,
            failure_reason=times.failure_reason,
            events=[TraceEventOut.model_validate(each) for each in found.events],
        )


class TraceOut(Out):
    message_id: str
    sender_id: PersonId
    message_type: str
    priority: int
    title: str
    accepted_at: int
    deliver_at: int | None
    enqueued_at: int | None = Field(description="null：还在发件箱")
    expires_at: int
    recipient_count: int
    recipients: list[TracedRecipientOut] = Field(description="按 id；发给所有人的没有名单")
    next_cursor: str | None
    silent_nodes: list[str] = Field(description="一秒之内没有答的进程：它们看到的不在其中")
    fleet_asked: bool = Field(description="为假：Redis 不在，只有记录与这个进程看到的")
    truncated: bool = Field(description="内存里看到的不止这些")

    @classmethod
    def of(cls, found: Trace, shown: Shown) -> Self:
        head = found.head
        return cls(
            message_id=head.message_id,
            sender_id=shown[head.sender_id],
            message_type=head.message_type,
            priority=head.priority,
            title=head.title,
            accepted_at=head.created_at,
            deliver_at=head.deliver_at,
            enqueued_at=head.enqueued_at,
            expires_at=head.expires_at,
            recipient_count=head.recipient_count,
            recipients=[TracedRecipientOut.of(one, shown) for one in found.recipients],
            next_cursor=None if found.next_cursor is None else str(found.next_cursor),
            silent_nodes=found.silent_nodes,
            fleet_asked=found.fleet_asked,
            truncated=found.truncated,
        )


TraceCursor = Annotated[str, Query(pattern="^[0-9]{1,16}$")]
TraceLimit = Annotated[int, Query(ge=1, le=100, description="一页几个收件人")]
Recipient = Annotated[PersonText | None, Query(description="只看他")]


def inspection_router(
    inspector: Inspector,
    tracer: Tracer,
    require_admin: Callable[..., object],
    people: People = INTEGERS,
) -> APIRouter:
    """``/mailboxes``、``/users/{id}/inspect``、``/messages/{id}/trace``；前缀由调用者加。"""
    router = contract_router(tags=["operations"], dependencies=[Depends(require_admin)])

    @router.get("/mailboxes", summary="最满的、最旧的信箱")
    async def mailboxes(
        order: Annotated[MailboxOrder, Query(description="条数最多的，或最早的一条最旧的")] = (
            "fullest"
        ),
        limit: Limit = 50,
    ) -> MailboxesOut:
        found = await inspector.mailboxes(order, limit)
        shown = await people.persons(one.user_id for one in found.items)
        items = [
            MailboxOut(**{**asdict(one), "user_id": shown[one.user_id]}) for one in found.items
        ]
        return MailboxesOut(items=items, complete=found.complete, at=found.at)

    @router.get("/users/{user_id}/inspect", summary="一个人：设备、信箱、最近的消息")
    async def inspect(user: Annotated[Who, Depends(InPath(people))]) -> InspectedOut:
        return InspectedOut.of(await inspector.user(user.number), user.person)

    @router.get("/messages/{message_id}/trace", summary="跟着一条消息：每个收件人走到了哪一站")
    async def trace(
        message_id: MessageIdPath,
        cursor: TraceCursor = "0",
        limit: TraceLimit = 50,
        recipient: Recipient = None,
    ) -> TraceOut:
        """404：没有这条消息，或他不是它的收件人；429：有人正在问（一个进程同时只问一次）。"""
        number = None if recipient is None else (await who(people, recipient)).number
        found = await tracer.trace(message_id, int(cursor), limit, number)
        told = (one.times.user_id for one in found.recipients)
        return TraceOut.of(found, await people.persons((found.head.sender_id, *told)))

    return router
