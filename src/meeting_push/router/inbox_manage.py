"""收件箱的 REST：一页、筛选与查找、数目、已读与归档；发出去的。

不用 ``from __future__ import annotations``，同 ``message_manage``。
"""

from collections.abc import Mapping
from typing import Annotated, Self

from fastapi import APIRouter, Depends, Query, Response
from msgspec import Meta, Struct, field

from ..accept.inbox import MAX_SOUGHT_CHARS
from ..accept.message_service import MessageService
from ..model import MAX_PRIORITY, MIN_PRIORITY, MessageType, Principal
from ..people.names import Named, Names
from ..people.people import INTEGERS, People
from ..person_id import PersonId
from ..storage.inbox_pages import InboxFilter
from ..storage.rows import SentItem
from .contract_route import Out, contract_router
from .json_body import JsonBody, answers, json_answer
from .message_manage import Limit, MessageCursor, MessageId, MessageOut
from .security import Security

Ids = Annotated[list[MessageId], Meta(min_length=1, max_length=1_000)]
Priority = Annotated[int | None, Query(ge=MIN_PRIORITY, le=MAX_PRIORITY, description="不低于它的")]
Sought = Annotated[
    str | None,
    Query(
        min_length=1,
        max_length=MAX_SOUGHT_CHARS,
        description="标题或正文里有这一段；看最新的 10,000 条，ASCII 字母不分大小写",
    ),
]
Archived = Annotated[bool, Query(description="真：只有归档的；假：只有没有归档的")]


class InboxOut(Struct, kw_only=True):
    items: list[MessageOut]
    next_cursor: str | None
    unread_count: int


class SentToOut(Struct):
    """``name``：名册说问的人看得见的；不然为 null。"""

    user_id: PersonId
    name: str | None


class SentOut(MessageOut, kw_only=True):
    """自己发的一条；``recipient_count`` 是 0：发给所有人的。"""

    recipient_count: int = 0
    deliver_at: int | None = None
    recipients: Annotated[list[SentToOut], Meta(description="头几个收件人，至多 3 个")] = field(
        default_factory=list
    )

    @classmethod
    def sent(cls, item: SentItem, persons: Mapping[int, PersonId], called: Named) -> Self:
        shown = cls.of(item.message)
        shown.recipient_count, shown.broadcast = item.recipient_count, item.broadcast
        shown.deliver_at = item.message.deliver_at
        first = [persons[number] for number in item.recipients]
        shown.recipients = [SentToOut(one, called.get(one)) for one in first]
        return shown


class SentPageOut(Struct, kw_only=True):
    """正文很长的一页短一些：``next_cursor`` 是 null 才是到底了。"""

    items: list[SentOut]
    next_cursor: str | None


class CountsOut(Out):
    """``unread``、``urgent`` 不数归档的；``version`` 只增：小的是旧的。"""

    unread: int
    urgent: int
    archived: int
    version: int


class ReadIn(Struct, forbid_unknown_fields=True):
    """二选一。"""

    message_ids: Ids | None = None
    upto_message_id: MessageId | None = None

    def __post_init__(self) -> None:
        if (self.message_ids is None) == (self.upto_message_id is None):
            raise ValueError("give either message_ids or upto_message_id")


class UnreadOut(Out):
    unread_count: int


class StateIn(Struct, forbid_unknown_fields=True):
    """``read``、``archived`` 至少说一样；没有说的不变。"""

    message_ids: Ids
    read: bool | None = None
    archived: bool | None = None

    def __post_init__(self) -> None:
        if self.read is None and self.archived is None:
            raise ValueError("give read, archived or both")


class StateOut(Out):
    """``unknown``：不是他的、不存在的，分不出。"""

    unread_count: int
    version: int
    unknown: list[str]


def inbox_router(
    service: MessageService, security: Security, names: Names, people: People = INTEGERS
) -> APIRouter:
    """``/messages…`` 里收件人的；前缀由调用者加。"""
    router = contract_router(tags=["messages"])
    inbox = service.inbox
    CurrentUser = Annotated[Principal, Depends(security.current_principal)]  # noqa: N806 — 类型

    @router.get("/messages", summary="收件箱，新的在前", responses=answers(InboxOut))
    async def page(
        user: CurrentUser,
        unread: bool = False,
        archived: Archived = False,
        message_type: MessageType | None = None,
        min_priority: Priority = None,
        q: Sought = None,
        cursor: MessageCursor = None,
        limit: Limit = 50,
    ) -> Response:
        wanted = InboxFilter(unread, archived, message_type, min_priority, q)
        found = await inbox.page(user.user_id, wanted, cursor=cursor, limit=limit)
        items = [MessageOut.of(item) for item in found.items]
        for one, sender in zip(items, await names.signed([i.sender for i in items]), strict=True):
            one.sender = sender
        return json_answer(
            InboxOut(
                items=items,
                next_cursor=found.next_cursor,
                unread_count=await service.get_unread_count(user.user_id),
            )
        )

    @router.get("/messages/sent", summary="自己发的，新的在前", responses=answers(SentPageOut))
    async def sent(
        user: Annotated[Principal, Depends(security.allowing("send"))],
        cursor: MessageCursor = None,
        limit: Limit = 50,
    ) -> Response:
        found = await service.sent.page(user.user_id, cursor, limit)
        persons = await people.persons({n for item in found.items for n in item.recipients})
        called = await names.of_readers(user, set(persons.values()))
        items = [SentOut.sent(item, persons, called) for item in found.items]
        return json_answer(SentPageOut(items=items, next_cursor=found.next_cursor))

    @router.get("/messages/counts", summary="未读、急的、归档的各几条")
    async def counts(user: CurrentUser) -> CountsOut:
        found = await inbox.record.counts(user.user_id)
        return CountsOut(
            unread=found.unread,
            urgent=found.urgent,
            archived=found.archived,
            version=found.version,
        )

    @router.post("/messages/read", summary="标为已读")
    async def read(
        user: CurrentUser, body: Annotated[ReadIn, Depends(JsonBody(ReadIn))]
    ) -> UnreadOut:
        if body.message_ids is not None:
            unread = await service.mark_read(user.user_id, body.message_ids)
        else:
            assert body.upto_message_id is not None
            unread = await service.mark_read_upto(user.user_id, body.upto_message_id)
        return UnreadOut(unread_count=unread)

    @router.post("/messages/state", summary="已读、归档改成这样")
    async def state(
        user: CurrentUser, body: Annotated[StateIn, Depends(JsonBody(StateIn))]
    ) -> StateOut:
        """不是他的被忽略，列在 ``unknown`` 里。幂等。"""
        change = await inbox.set_state(
            user.user_id, body.message_ids, read=body.read, archived=body.archived
        )
        his = set(change.message_ids)
        unknown = [one for one in dict.fromkeys(body.message_ids) if one not in his]
        return StateOut(unread_count=change.unread, version=change.version, unknown=unknown)

    return router
