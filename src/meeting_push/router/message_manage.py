"""消息的 REST：发送、收件箱、已读、投递状态；管理员发给所有人的广播；以及用户 WebSocket 的路由。

不用 ``from __future__ import annotations``：FastAPI 在模块的全局名字里求值注解，找不到工厂
函数里的依赖。
"""

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict
from typing import Annotated, Any, Final, Self, TypeVar

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response, status
from msgspec import Meta, Raw, Struct, field
from pydantic import Field

from ..accept.drafts import MAX_IDEMPOTENCY_KEY_CHARS, check_send_rights
from ..accept.message_service import MessageService
from ..broadcast.service import BroadcastService
from ..errors import PayloadTooLargeError
from ..limits.send_limits import SendQuota
from ..model import (
    MAX_NAME_CHARS,
    MAX_PRIORITY,
    MAX_SAFE_INTEGER,
    MIN_PRIORITY,
    Accepted,
    Draft,
    Message,
    MessageType,
    Principal,
    RecipientState,
    Sender,
)
from ..outcome.delivery_confirmation_service import DeliveryConfirmationService
from ..people.names import Names
from ..people.people import INTEGERS, People
from ..person_id import PersonId, number_or_nobody
from ..protocol.frames import NewMessageTail, UserId
from ..protocol.json_text import MAX_DEPTH
from ..settings import MessageSettings
from ..storage.rows import InboxItem
from ..websocket.asgi import user_messages_endpoint
from ..websocket.manager import ConnectionManager
from .contract_route import ContractRoute, Handler, Out, contract_router
from .json_body import JsonBody, Schema, answers, json_answer
from .security import Security
from .turns import pause_of

MESSAGE_ID_PATTERN: Final = "[0-9A-Z]{26}"
NULL: Final = Raw(b"null")

MessageId = Annotated[str, Meta(pattern=f"^{MESSAGE_ID_PATTERN}$", min_length=26, max_length=26)]
MessageIdPath = Annotated[str, Path(pattern=f"^{MESSAGE_ID_PATTERN}$")]
MessageCursor = Annotated[str | None, Query(pattern=f"^{MESSAGE_ID_PATTERN}$")]
IdempotencyKey = Annotated[str | None, Header(min_length=1, max_length=MAX_IDEMPOTENCY_KEY_CHARS)]
Limit = Annotated[int, Query(ge=1, le=200, description="一页几条")]


def _null() -> Raw:
    return NULL


class SenderIn(Struct, forbid_unknown_fields=True):
    """替谁发的；只有 API 密钥可以说。不说 ``id`` 的是系统。"""

    id: UserId | None = None
    name: Annotated[str, Meta(max_length=MAX_NAME_CHARS)] = ""

    def sender(self) -> Sender | None:
        return Sender(self.id, self.name) if self.id is not None or self.name else None


class TextIn(Struct, forbid_unknown_fields=True, kw_only=True, gc=False):
    """消息里与收件人无关的字段；由设置定的上限由服务检查（413/422）。"""

    title: Annotated[str, Meta(min_length=1)]
    content: str
    message_type: MessageType = "message"
    priority: Annotated[
        int, Meta(ge=MIN_PRIORITY, le=MAX_PRIORITY, description="不低于 5 为紧急")
    ] = 0
    expires_in_s: Annotated[int, Meta(ge=1)] | None = None
    deliver_at: (
        Annotated[int, Meta(ge=0, le=MAX_SAFE_INTEGER, description="预约送达的时刻，毫秒")] | None
    ) = None
    data: Annotated[
        Raw,
        Meta(
            description=f"应用自己的 JSON，原样送达；至多 {MAX_DEPTH} 层",
            extra_json_schema={"type": ["object", "null"]},
        ),
    ] = field(default_factory=_null)
    sender: SenderIn | None = None

    def draft_to(self, recipient_ids: tuple[PersonId, ...], *, receipt: bool) -> Draft:
        return Draft(
            recipient_ids=recipient_ids,
            title=self.title,
            content=self.content,
            message_type=self.message_type,
            priority=self.priority,
            expires_in_s=self.expires_in_s,
            deliver_at=self.deliver_at,
            data=None if self.data == NULL else self.data,
            receipt=receipt,
            sender=None if self.sender is None else self.sender.sender(),
        )


class DraftIn(TextIn, gc=False):
    """一条要发送的消息。"""

    recipient_ids: Annotated[list[UserId], Meta(min_length=1, description="收件人；重复的只算一次")]
    receipt: Annotated[bool, Meta(description="送达时给发送者一帧 receipt")] = False

    def draft(self) -> Draft:
        return self.draft_to(tuple(self.recipient_ids), receipt=self.receipt)


def draft_limits(rules: MessageSettings) -> dict[str, Schema]:
    """``rules`` 里的上限，写进 OpenAPI；字节数是字符数的上界。"""
    return {
        "recipient_ids": {"maxItems": rules.max_recipients},
        "title": {"maxLength": rules.max_title_chars},
        "content": {"maxLength": rules.max_content_bytes},
        "expires_in_s": {"minimum": 1, "maximum": rules.ttl_s, "type": ["integer", "null"]},
    }


class BatchIn(Struct, forbid_unknown_fields=True):
    messages: Annotated[list[DraftIn], Meta(min_length=1)]


class BatchOut(Struct):
    results: list[Accepted]


class MessageOut(Struct, kw_only=True):
    """一条消息；``read_at``、``archived_at``、``status`` 只有收件人自己看得到。"""

    message_id: str
    message_type: MessageType
    priority: int
    title: str
    content: str
    sender: Sender
    timestamp: int
    expires_at: int
    data: Annotated[Any, Meta(extra_json_schema={"type": ["object", "null"]})]
    read_at: int | None = None
    archived_at: int | None = None
    status: str | None = None
    broadcast: Annotated[bool, Meta(description="发给所有人的")] = False
    withdrawn_at: Annotated[
        int | None, Meta(description="撤回了：标题、正文是空的，data 为 null")
    ] = None

    @classmethod
    def of(cls, item: InboxItem | Message) -> Self:
        message = item.message if isinstance(item, InboxItem) else item
        shown = cls(**{name: getattr(message, name) for name in NewMessageTail.__struct_fields__})
        shown.withdrawn_at = message.withdrawn_at
        if isinstance(item, InboxItem):
            shown.read_at, shown.status = item.read_at, item.status
            shown.archived_at, shown.broadcast = item.archived_at, item.broadcast
        return shown


class RecipientOut(Out):
    user_id: PersonId
    status: str
    attempts: int
    sent_at: int | None
    delivered_at: int | None
    failed_at: int | None
    failure_reason: str | None
    name: Annotated[str | None, Field(description="名册说问的人看得见的；不然为 null")] = None

    @classmethod
    def of(cls, state: RecipientState, person: PersonId, name: str | None) -> Self:
        return cls.model_validate({**asdict(state), "user_id": person, "name": name})


class DeliveryOut(Out):
    """广播的总人数不得而知：``total``、``pending`` 为 null，``recipients`` 为空。"""

    message_id: str
    total: int | None
    pending: int | None
    delivered: int
    failed: int
    expired: int
    withdrawn: int
    recipients: list[RecipientOut]
    next_cursor: str | None

    @classmethod
    def of_broadcast(cls, message_id: str, delivered: int) -> Self:
        return cls(
            message_id=message_id,
            total=None,
            pending=None,
            delivered=delivered,
            failed=0,
            expired=0,
            withdrawn=0,
            recipients=[],
            next_cursor=None,
        )


Body = TypeVar("Body")
Send = Callable[[Principal, Body, Request, str | None], Coroutine[Any, Any, Response]]


def _direct(send: Send[Body], security: Security, body: JsonBody[Body]) -> Handler:
    """``send`` 的热路；次序同路由的：先令牌，后请求体。"""

    async def handle(request: Request) -> Response:
        user = await security.principal_of(request, "send")
        key = request.headers.get("idempotency-key")
        return await send(user, await body(request), request, key)

    return handle


def _has_plain_key(request: Request) -> bool:
    """没有幂等的键，或长短合适；别的由框架来说哪里不对。"""
    key = request.headers.get("idempotency-key")
    return key is None or 1 <= len(key) <= MAX_IDEMPOTENCY_KEY_CHARS


def message_router(
    service: MessageService,
    confirmation: DeliveryConfirmationService,
    security: Security,
    *,
    broadcasts: BroadcastService,
    quota: SendQuota,
    rules: MessageSettings,
    people: People = INTEGERS,
    names: Names,
) -> APIRouter:
    """``/messages…``；前缀由调用者加。"""
    router = contract_router(tags=["messages"])
    limits = {**draft_limits(rules), "messages": {"maxItems": rules.max_batch_messages}}
    Sending = Annotated[Principal, Depends(security.allowing("send"))]  # noqa: N806 — 类型
    tracking = security.allowing("send", "broadcast", "read")
    one, many = JsonBody(DraftIn, limits), JsonBody(BatchIn, limits)

    async def accept(
        user: Principal, drafts: Sequence[Draft], request: Request, key: str | None
    ) -> list[Accepted]:
        check_send_rights(user, drafts)
        return await service.send_batch(
            user.sender,
            drafts,
            key,
            charge=quota.charge(user),
            key_id=user.key_id,
            bringer=people.bringer(user),
            pause=pause_of(request),
        )

    @router.post(
        "/messages",
        status_code=status.HTTP_202_ACCEPTED,
        summary="发送一条消息",
        responses=answers(Accepted, status.HTTP_202_ACCEPTED),
    )
    async def send(
        user: Sending,
        body: Annotated[DraftIn, Depends(one)],
        request: Request,
        idempotency_key: IdempotencyKey = None,
    ) -> Response:
        """202 即已提交到数据库：此后它不会丢。``system`` 只有管理员与密钥可以发（403）。"""
        quota.glance(user, [body])
        [accepted] = await accept(user, [body.draft()], request, idempotency_key)
        return json_answer(accepted, status.HTTP_202_ACCEPTED)

    @router.post(
        "/messages/batch",
        status_code=status.HTTP_202_ACCEPTED,
        summary="批量发送",
        responses=answers(BatchOut, status.HTTP_202_ACCEPTED),
    )
    async def send_batch(
        user: Sending,
        body: Annotated[BatchIn, Depends(many)],
        request: Request,
        idempotency_key: IdempotencyKey = None,
    ) -> Response:
        """全部在一个事务里：要么都接受，要么都不。"""
        if len(body.messages) > (most := rules.max_batch_messages):
            raise PayloadTooLargeError(f"messages: more than {most} messages")
        quota.glance(user, body.messages)
        drafts = [message.draft() for message in body.messages]
        accepted = await accept(user, drafts, request, idempotency_key)
        return json_answer(BatchOut(accepted), status.HTTP_202_ACCEPTED)

    for route, handle in zip(
        router.routes,
        (_direct(send, security, one), _direct(send_batch, security, many)),
        strict=True,
    ):
        assert isinstance(route, ContractRoute)
        route.go_direct(handle, _has_plain_key)

    @router.get("/messages/{message_id}", summary="一条消息", responses=answers(MessageOut))
    async def get(message_id: MessageIdPath, user: Sending) -> Response:
        shown = MessageOut.of(await service.get_message(message_id, user))
        [shown.sender] = await names.signed([shown.sender])
        return json_answer(shown)

    @router.delete("/messages/{message_id}", status_code=204, summary="撤回（发送者、管理员）")
    async def cancel(message_id: MessageIdPath, user: Sending) -> None:
        await service.cancel_message(message_id, user)

    @router.get("/messages/{message_id}/delivery", summary="投递状态（发送者、管理员）")
    async def delivery(
        message_id: MessageIdPath,
        user: Annotated[Principal, Depends(tracking)],
        cursor: Annotated[str | None, Query(pattern="^[0-9]{1,18}$")] = None,
        limit: Limit = 100,
    ) -> DeliveryOut:
        await service.require_sender(message_id, user, reading=True)
        if (acked := await broadcasts.delivered_count(message_id)) is not None:
            return DeliveryOut.of_broadcast(message_id, acked)
        counts, page = await confirmation.get_message_delivery_status(
            message_id, cursor=int(cursor or 0), limit=limit
        )
        numbers = [number_or_nobody(state.user_id) for state in page.items]
        shown = await people.persons(numbers)
        recipients = [shown[number] for number in numbers]
        called = await names.of_readers(user, recipients)
        return DeliveryOut(
            message_id=message_id,
            total=counts.total,
            pending=counts.pending,
            delivered=counts.delivered,
            failed=counts.failed,
            expired=counts.expired,
            withdrawn=counts.withdrawn,
            recipients=[
                RecipientOut.of(each, person, called.get(person))
                for each, person in zip(page.items, recipients, strict=True)
            ],
            next_cursor=None if page.next_cursor is None else str(page.next_cursor),
        )

    return router


def user_messages_router(manager: ConnectionManager) -> APIRouter:
    """``/ws/user/{user_id}/messages`` 的普通 ASGI 路由；picows 在前时连接到不了这里。"""
    router = APIRouter()
    router.add_api_websocket_route(
        "/ws/user/{user_id}/messages", user_messages_endpoint(manager), name="user_messages"
    )
    return router


class BroadcastIn(TextIn, gc=False):
    """一条发给所有人的消息；没有回执。"""

    def draft(self) -> Draft:
        return self.draft_to((), receipt=False)


class BroadcastOut(Out):
    message_id: str
    created_at: int


def broadcast_router(
    service: BroadcastService, may_broadcast: Callable[..., object], rules: MessageSettings
) -> APIRouter:
    """``/messages/broadcast``；前缀由调用者加。"""
    router = contract_router(tags=["messages"])
    Admin = Annotated[Principal, Depends(may_broadcast)]  # noqa: N806 — 它是类型

    @router.post(
        "/messages/broadcast",
        status_code=status.HTTP_202_ACCEPTED,
        summary="发给所有用户（管理员）",
    )
    async def broadcast(
        admin: Admin,
        body: Annotated[BroadcastIn, Depends(JsonBody(BroadcastIn, draft_limits(rules)))],
        idempotency_key: IdempotencyKey = None,
    ) -> BroadcastOut:
        """202 即已提交：在线的立即收到；不在的，有效期内连上时收到。"""
        draft = body.draft()
        check_send_rights(admin, [draft])
        accepted = await service.send_broadcast(
            admin.sender, draft, idempotency_key, key_id=admin.key_id
        )
        return BroadcastOut.model_validate(accepted)

    return router
