"""给操作页的 REST：看一个人，看谁的信箱最满、最旧。都只给管理员。

不用 ``from __future__ import annotations``：见 ``message_manage.py``。
"""

from collections.abc import Callable
from typing import Annotated, Self

from fastapi import APIRouter, Depends, Query
from pydantic import Field

from ..clock import now_ms
from ..model import PresenceStatus
from ..monitoring.inspection import Inspected, Inspector, MailboxOrder
from ..redis.presence import overall_status
from .contract_route import Out, contract_router
from .delivery_manage import OfflineMessageOut, UserIdPath
from .message_manage import Limit
from .presence_manage import ConnectionOut


class MailboxOut(Out):
    user_id: int
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
    user_id: int
    name: str | None
    online: bool
    status: PresenceStatus | None
    connections: list[NodeConnectionOut]
    mailbox: HeldOut
    last_messages: list[RecentOut] = Field(description="新的在前，不带正文")

    @classmethod
    def of(cls, found: Inspected) -> Self:
        now, status = now_ms(), overall_status(found.connections)
        held = [OfflineMessageOut.of(one, now) for one in found.held]
        return cls(
            user_id=found.user_id,
            name=found.name,
            online=status is not None,
            status=status,
            connections=[NodeConnectionOut.model_validate(one) for one in found.connections],
            mailbox=HeldOut(count=found.count, oldest_age_ms=found.oldest_age_ms, items=held),
            last_messages=[RecentOut.model_validate(one) for one in found.recent],
        )


def inspection_router(inspector: Inspector, require_admin: Callable[..., object]) -> APIRouter:
    """``/mailboxes``、``/users/{id}/inspect``；前缀由调用者加。"""
    router = contract_router(tags=["operations"], dependencies=[Depends(require_admin)])

    @router.get("/mailboxes", summary="最满的、最旧的信箱")
    async def mailboxes(
        order: Annotated[MailboxOrder, Query(description="条数最多的，或最早的一条最旧的")] = (
            "fullest"
        ),
        limit: Limit = 50,
    ) -> MailboxesOut:
        return MailboxesOut.model_validate(await inspector.mailboxes(order, limit))

    @router.get("/users/{user_id}/inspect", summary="一个人：设备、信箱、最近的消息")
    async def inspect(user_id: UserIdPath) -> InspectedOut:
        return InspectedOut.of(await inspector.user(user_id))

    return router
