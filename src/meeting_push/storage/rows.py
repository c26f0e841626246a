"""仓库交出的名词（``model.py`` 里没有的那些），以及 ``Message`` 与 ``messages`` 表的一行互换。"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final, Generic, TypeVar

import msgspec
from sqlalchemy import Column, Row, Table, select

from ..logs import logger
from ..model import AppData, DeliveryStatus, FailureCause, Message, Sender
from ..person_id import NOBODY
from ..protocol.json_text import is_too_deep
from .tables import messages, people


def columns_of(kind: type, table: Table) -> list[Column[Any]]:
    """``kind`` 的各字段对应的列，次序不变：``kind(*row)`` 就是那一行。"""
    return [table.c[each.name] for each in fields(kind)]


Item = TypeVar("Item")
Position = TypeVar("Position")


@dataclass(frozen=True, slots=True)
class Page(Generic[Item, Position]):
    """一页；``next_cursor`` 为 None 即到底。"""

    items: list[Item]
    next_cursor: Position | None

    @classmethod
    def of(
        cls, found: list[Item], limit: int, position_of: Callable[[Item], Position]
    ) -> Page[Item, Position]:
        """``found`` 比 ``limit`` 多取一个：真多出来了才还有下一页，从这一页的最后一个之后开始。"""
        more = len(found) > limit
        return cls(found[:limit], position_of(found[limit - 1]) if more else None)


@dataclass(frozen=True, slots=True)
class User:
    """一个账号；``disabled_at`` 非空则不能登录。"""

    id: int
    username: str
    password_hash: str = field(repr=False)
    role: str
    created_at: int
    disabled_at: int | None


@dataclass(frozen=True, slots=True)
class RefreshToken:
    """一枚刷新令牌的记录：只有散列，没有令牌。"""

    token_hash: bytes = field(repr=False)
    family_id: str
    user_id: int
    expires_at: int
    used_at: int | None = None
    revoked_at: int | None = None


@dataclass(frozen=True, slots=True)
class InboxItem:
    """收件箱的一行：消息，和它对这个收件人的状态。``broadcast``：发给所有人的。"""

    message: Message
    status: DeliveryStatus
    read_at: int | None
    archived_at: int | None = None
    broadcast: bool = False


@dataclass(frozen=True, slots=True)
class InboxCounts:
    """没有归档的未读、其中急的；归档的；``version``：数的时候收件箱变到第几次。"""

    unread: int
    urgent: int
    archived: int
    version: int


@dataclass(frozen=True, slots=True)
class InboxChange:
    """改了之后：哪些是他的，未读数，第几次变；``changed``：真有变了的。"""

    message_ids: list[str]
    unread: int
    version: int
    changed: bool


@dataclass(frozen=True, slots=True)
class SentItem:
    """发出去的一条；``broadcast``：发给所有人的，``recipient_count`` 是 0。

    ``recipients``：头几个收件人的号，升序。
    """

    message: Message
    recipient_count: int
    broadcast: bool
    recipients: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class DeliveryCounts:
    """一条消息的收件人按状态的数目；``unknown``：更新的程序写下的、这里不认识的。"""

    pending: int = 0
    delivered: int = 0
    failed: int = 0
    expired: int = 0
    withdrawn: int = 0
    unknown: int = 0

    @classmethod
    def of(cls, rows: Iterable[Sequence[Any]]) -> DeliveryCounts:
        """``rows``：(状态, 几个)。"""
        found = Counter[str]()
        for status, count in rows:
            found[status if DeliveryStatus(status).is_known else "unknown"] += count
        return cls(**found)

    @property
    def total(self) -> int:
        known = self.pending + self.delivered + self.failed + self.expired + self.withdrawn
        return known + self.unknown


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """某个 Idempotency-Key 第一次得到的回答；``response`` 是 JSON 原文。"""

    request_hash: bytes
    response: str


@dataclass(frozen=True, slots=True)
class OutcomeRow:
    """一组收件人：第几个时段、什么类型、什么状态（失败则为何，失败、过期归哪一类）。

    ``count`` 人，其中 ``retried`` 人重试过；``to_ack_ms`` 是从推到确认的毫秒数之和。
    """

    bucket: int
    message_type: str
    status: DeliveryStatus
    reason: str | None
    cause: FailureCause | None
    count: int
    retried: int
    to_ack_ms: int


@dataclass(frozen=True, slots=True)
class UndeliveredRow:
    """没有送达的一组；``reason`` 为 None 是过期的，``cause`` 为 None 是旧程序没有记的。"""

    reason: str | None
    cause: FailureCause | None
    count: int


@dataclass(frozen=True, slots=True)
class FailedDelivery:
    """失败清单的一行。"""

    message_id: str
    user_id: int
    attempts: int
    failed_at: int
    reason: str
    cause: FailureCause | None
    sender_id: int
    message_type: str
    priority: int
    title: str
    expires_at: int


@dataclass(frozen=True, slots=True)
class RecentMessage:
    """发给一个人的一条，不带正文；``timestamp`` 是接受的时刻。"""

    message_id: str
    title: str
    message_type: str
    priority: int
    timestamp: int
    deliver_at: int | None
    status: DeliveryStatus
    attempts: int
    sent_at: int | None
    delivered_at: int | None
    failed_at: int | None
    failure_reason: str | None
    read_at: int | None


@dataclass(frozen=True, slots=True)
class MessageHead:
    """一条消息，不带正文；``created_at`` 是接受的时刻，``enqueued_at`` 为 None：还在发件箱。"""

    message_id: str
    sender_id: int
    message_type: str
    priority: int
    title: str
    created_at: int
    deliver_at: int | None
    enqueued_at: int | None
    expires_at: int
    recipient_count: int


@dataclass(frozen=True, slots=True)
class RecipientTimes:
    """一个收件人的各个时刻；``expired`` 没有自己的时刻，是消息的 ``expires_at``。"""

    user_id: int
    status: DeliveryStatus
    attempts: int
    sent_at: int | None
    delivered_at: int | None
    failed_at: int | None
    failure_reason: str | None
    read_at: int | None


# ── ``messages`` 的一行 ──────────────────────────────────────────────────────

_object: Final = msgspec.json.Decoder(dict[str, Any])
#: 组成一个 ``Message`` 的列；``message_of`` 按名字取。
MESSAGE_COLUMNS: Final = (
    messages.c.message_id,
    messages.c.message_type,
    messages.c.priority,
    messages.c.title,
    messages.c.content,
    messages.c.sender_id,
    messages.c.sender_name,
    messages.c.created_at,
    messages.c.expires_at,
    messages.c.deliver_at,
    messages.c.data,
    messages.c.receipt,
    messages.c.key_id,
    messages.c.withdrawn_at,
    # 发送者的 id 是一段字的：帧里是它，不是号
    select(people.c.outer_id)
    .where(people.c.id == messages.c.sender_id - NOBODY)
    .scalar_subquery()
    .label("sender_person"),
)


def message_of(row: Row[*tuple[Any, ...]]) -> Message:
    return _message(row, None if row.data is None else _stored(row.data.encode()))


def _message(row: Row[*tuple[Any, ...]], data: AppData | None) -> Message:
    person: str | None = row.sender_person
    return Message(
        message_id=row.message_id,
        message_type=row.message_type,
        priority=row.priority,
        title=row.title,
        content=row.content,
        sender=Sender(_sender(row) if person is None else person, row.sender_name),
        timestamp=row.created_at,
        expires_at=row.expires_at,
        deliver_at=row.deliver_at,
        data=data,
        receipt=row.receipt,
        key_id=row.key_id,
        sender_number=None if person is None else row.sender_id,
        withdrawn_at=row.withdrawn_at,
    )


def _sender(row: Row[*tuple[Any, ...]]) -> int | None:
    number: int = row.sender_id
    return number or (0 if row.key_id is None else None)


def _stored(data: bytes) -> AppData:
    """0.1 收过的、现在不收的（太深）不解码：原文还送得出去，解开却过不了别的编码器（A3）。"""
    if is_too_deep(data):
        return msgspec.Raw(data)
    return _object.decode(data)


def shown(row: Row[*tuple[Any, ...]]) -> Message:
    """给人看的：``data`` 被改坏的，别的照样看得到；一行不毁掉一整页收件箱。"""
    try:
        return message_of(row)
    except (msgspec.MsgspecError, ValueError) as error:
        log = logger.bind(message_id=row.message_id, error=f"{type(error).__name__}: {error}")
        log.error("message_data_unreadable")
        return _message(row, None)


def readable(rows: Iterable[Row[*tuple[Any, ...]]]) -> tuple[list[Message], list[str]]:
    """读得懂的各条，与读不懂的 id（别人改坏的行）：坏的一行不连累同页的。"""
    found: list[Message] = []
    unreadable: list[str] = []
    for row in rows:
        try:
            found.append(message_of(row))
        except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
            unreadable.append(row.message_id)
            log = logger.bind(message_id=row.message_id, error=f"{type(error).__name__}: {error}")
            log.error("message_row_unreadable")
    return found, unreadable
