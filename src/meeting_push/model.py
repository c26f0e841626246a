"""名词：在各站之间传递的不可变值。

时间一律是 Unix 纪元起的整数毫秒（``*_ms`` 为时长，``*_s`` 为秒）。
用户 id 是正整数；消息 id 是 26 个字符的 ULID，字典序即时间序。
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Literal

import msgspec

MessageType = Literal["message", "notification", "system"]
PresenceStatus = Literal["active", "away", "busy"]

MIN_PRIORITY: Final = 0
MAX_PRIORITY: Final = 9
#: 不低于它的消息进 ``priority_message_queue``，补发时也排在前面。
URGENT_PRIORITY: Final = 5
ADMIN_ROLE: Final = "admin"
USER_ROLE: Final = "user"


class DeliveryStatus(StrEnum):
    """一条消息对一个收件人的状态；``delivered`` 只能由客户端的 ack 产生（DLV-4）。"""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Principal:
    """一枚已验证的令牌说明的身份。

    ``session_id`` 是刷新令牌族的 id（外来令牌没有则为 None）；
    ``token_id`` 是 ``jti``。``expires_at``、``issued_at`` 为毫秒。
    """

    user_id: int
    role: str
    issued_at: int
    expires_at: int
    session_id: str | None = None
    token_id: str | None = None
    name: str = ""

    @property
    def is_admin(self) -> bool:
        return self.role == ADMIN_ROLE


class Sender(msgspec.Struct, frozen=True):
    """发送者在帧里的样子。"""

    id: int
    name: str


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """一条已被接受的消息（与收件人无关的部分）。

    ``timestamp`` 是接受时刻；``deliver_at`` 为 None 表示立即；``data`` 是应用自己的
    JSON 对象，原样送达。
    """

    message_id: str
    message_type: MessageType
    priority: int
    title: str
    content: str
    sender: Sender
    timestamp: int
    expires_at: int
    deliver_at: int | None = None
    data: dict[str, Any] | None = None
    receipt: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """应用交来的、尚未接受的一条消息；各字段的上下限见 ``MessageService``。"""

    recipient_ids: tuple[int, ...]
    title: str
    content: str
    message_type: MessageType = "message"
    priority: int = 0
    expires_in_s: int | None = None
    deliver_at: int | None = None
    data: dict[str, Any] | None = None
    receipt: bool = False


@dataclass(frozen=True, slots=True)
class Accepted:
    """接受的凭据：SQL 已提交，此后消息不会丢（DLV-1）。"""

    message_id: str
    recipient_count: int
    created_at: int


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """一台设备声称的位置：在 ``epoch`` 里，seq ≤ ``last_seq`` 的都已应用。"""

    epoch: str
    last_seq: int


@dataclass(frozen=True, slots=True)
class MailboxEntry:
    """信箱里的一条：某用户的 seq、消息 id 与优先级。"""

    seq: int
    message_id: str
    priority: int


@dataclass(frozen=True, slots=True)
class MailboxGap:
    """一段不会再推的 seq：其中 ``count`` 条因 ``reason`` 没了，其余的早已确认。"""

    from_seq: int
    to_seq: int
    count: int
    reason: Literal["evicted", "expired"]


@dataclass(frozen=True, slots=True)
class MailboxView:
    """连接时读到的信箱。

    ``entries`` 已按（优先级高者在前，seq 升序）排好；``seq`` 是该用户最新的 seq；``gaps`` 是没有
    确认过、却不在 ``entries`` 里的（DLV-5）；
    ``resumed`` 表示 ``ResumePoint`` 被接受；``resync_reason`` 非空时设备必须用 REST 重取。
    """

    epoch: str
    seq: int
    entries: tuple[MailboxEntry, ...]
    resumed: bool = False
    resync_reason: Literal["epoch_changed", "too_far_behind"] | None = None
    gaps: tuple[MailboxGap, ...] = ()


@dataclass(frozen=True, slots=True)
class BroadcastEntry:
    """广播日志里的一条。

    ``broadcast_id`` 是进日志的时刻（毫秒），严格递增；``previous`` 是日志里它前面的一条
    （可能早已裁掉），没有则 0。
    """

    broadcast_id: int
    previous: int
    message_id: str
    priority: int
    expires_at: int


@dataclass(frozen=True, slots=True)
class BroadcastView:
    """一条连接此刻该补的广播，按日志的次序；``upto`` 是所依据的日志末尾。"""

    entries: tuple[BroadcastEntry, ...]
    upto: int


@dataclass(frozen=True, slots=True)
class Ack:
    """一次已核实的确认：该消息确在这条连接上推过。"""

    message_id: str
    seq: int
    sent_at: int
    acked_at: int


@dataclass(frozen=True, slots=True)
class AckOutcome:
    """对一个 ``ack`` 帧的回答。"""

    accepted: int
    unknown: tuple[str, ...] = ()


class ConnectionInfo(msgspec.Struct, frozen=True, kw_only=True):
    """一台设备的一条连接；也是 ``online_users:{uid}`` 里每个值的 JSON。"""

    connection_id: str
    device_id: str
    device_info: str
    connect_time: int
    last_heartbeat: int
    ip_address: str
    status: PresenceStatus
    node: str


class QueueEntry(msgspec.Struct, frozen=True, kw_only=True):
    """队列里的一项投递任务：一条消息与它的一部分收件人（正文在 ``message_body:<id>``）。"""

    message_id: str
    recipient_ids: tuple[int, ...]
    priority: int
    expires_at: int
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class RecipientState:
    """``GET /messages/{id}/delivery`` 里的一行。"""

    user_id: int
    status: DeliveryStatus
    attempts: int
    sent_at: int | None
    delivered_at: int | None
    failed_at: int | None
    failure_reason: str | None
