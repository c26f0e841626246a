"""名词：在各站之间传递的不可变值。

时间一律是 Unix 纪元起的整数毫秒（``*_ms`` 为时长，``*_s`` 为秒）。
用户 id 是正整数；消息 id 是 26 个字符的 ULID，字典序即时间序。
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Literal, NamedTuple, Self, TypedDict, get_args

import msgspec

from .person_id import MAX_INTEGER, NOBODY, PersonId

MessageType = Literal["message", "notification", "system"]
DEFAULT_TYPE: Final = "message"
PresenceStatus = Literal["active", "away", "busy"]
#: 应用自己的 JSON 对象。接受的路上是规范的原文（``protocol/json_text.py``），不再解码；
#: 从记录读出来的是 dict，只有 0.1 存下的、现在不收的（太深）才仍是原文。
AppData = dict[str, Any] | msgspec.Raw

#: 用户 id 与 seq 的上限：JavaScript 的整数到此为止还是准的（C8）。
MAX_SAFE_INTEGER: Final = MAX_INTEGER
MAX_USER_ID: Final = MAX_SAFE_INTEGER
MIN_PRIORITY: Final = 0
MAX_PRIORITY: Final = 9
#: 不低于它的消息进 ``priority_message_queue``，补发时也排在前面。
URGENT_PRIORITY: Final = 5
#: 给人看的名字至多这么长。
MAX_NAME_CHARS: Final = 256
ADMIN_ROLE: Final = "admin"
USER_ROLE: Final = "user"
#: 语音识别器的角色：不必受邀，可进任何会议并送入转录。
RECORDER_ROLE: Final = "recorder"


class DeliveryStatus(StrEnum):
    """一条消息对一个收件人的状态；``delivered`` 只能由客户端的 ack 产生（DLV-4）。"""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"
    EXPIRED = "expired"
    #: 发的人撤回时他还没有确认；迟到的确认不改它。
    WITHDRAWN = "withdrawn"

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        """滚动升级时新的程序已写下、我们还不认识的：照原样说出来，别的一概不动它。"""
        if not isinstance(value, str):
            return None
        unknown = str.__new__(cls, value)
        unknown._name_ = unknown._value_ = value
        return unknown

    @property
    def is_known(self) -> bool:
        return self.value in DeliveryStatus._value2member_map_


class FailureCause(StrEnum):
    """没有送达归到哪一类；每一类凭什么，见 docs/delivery.md“为什么没有送达”。"""

    NETWORK = "network"
    AUTHENTICATION = "authentication"
    CLIENT = "client"
    SYSTEM = "system"
    POLICY = "policy"


#: 用完了重试次数，始终没有确认。
NO_ACK: Final = "no_ack"
_BY_RULE: Final = frozenset({"cleared", "cancelled", "mailbox_evicted"})


def cause_of(reason: str) -> FailureCause | None:
    """失败的原因自己就说明了的类别；``no_ack`` 说明不了，要看当时的情形。"""
    if reason == NO_ACK:
        return None
    return FailureCause.POLICY if reason in _BY_RULE else FailureCause.SYSTEM


@dataclass(frozen=True, slots=True)
class Principal:
    """一枚已验证的令牌说明的身份。

    ``session_id`` 是刷新令牌族的 id（外来令牌没有则为 None）；
    ``token_id`` 是 ``jti``。``expires_at``、``issued_at`` 为毫秒。

    ``user_id`` 是内里的号；``subject`` 是令牌说的一段字，id 是整数的没有（见 ``people/``）。
    """

    user_id: int
    role: str
    issued_at: int
    expires_at: int
    session_id: str | None = None
    token_id: str | None = None
    name: str = ""
    subject: str | None = None

    @classmethod
    def of(
        cls, person: PersonId, role: str = USER_ROLE, *, issued_at: int, expires_at: int
    ) -> Principal:
        """应用自己验证令牌时给的：``person`` 是它的 id，整数或一段字。"""
        number, subject = (person, None) if isinstance(person, int) else (NOBODY, person)
        return cls(number, role, issued_at, expires_at, subject=subject)

    @property
    def person(self) -> PersonId:
        """对外的 id。"""
        return self.user_id if self.subject is None else self.subject

    @property
    def is_admin(self) -> bool:
        return self.role == ADMIN_ROLE

    @property
    def reads_all(self) -> bool:
        """别人的投递也看得到。"""
        return self.is_admin

    @property
    def key_id(self) -> int | None:
        """人没有；见 ``KeyPrincipal``。"""
        return None

    @property
    def sender(self) -> Sender:
        return Sender(self.person, self.name)


@dataclass(frozen=True, slots=True)
class Keyring:
    """``signs``：签发用的钥匙的指纹（不签则空）；``accepts``：认得的。都空：由应用自己验证。"""

    signs: str = ""
    accepts: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Revocation:
    """一次吊销：一枚令牌（``token_id``）、一个会话（``session_id``），或（两者都没有）整个用户。

    吊销整个用户只管 ``before``（含）以前签发的；另两种不看签发时刻。``expires_at`` 之后它所指的
    令牌都已过期，不必再记；None 是永远记着：外来的令牌可以活很久。
    """

    user_id: int
    before: int
    expires_at: int | None = None
    session_id: str | None = None
    token_id: str | None = None

    @property
    def is_erasure(self) -> bool:
        """这个人抹掉了：何时签发的都作废。"""
        return self.before == MAX_SAFE_INTEGER

    def covers(self, principal: Principal) -> bool:
        if principal.user_id != self.user_id:
            return False
        if self.token_id is not None:
            return principal.token_id == self.token_id
        if self.session_id is not None:
            return principal.session_id == self.session_id
        return principal.issued_at <= self.before


class Sender(msgspec.Struct, frozen=True):
    """发送者在帧里的样子；``id`` 是对外的，为 None（从前是 0）的是系统，不是哪个人。"""

    id: PersonId | None
    name: str


Scope = Literal["send", "broadcast", "read", "presence", "admin"]
SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)
#: 密钥的 ``Principal.role``；管什么由它的范围定。
KEY_ROLE: Final = "key"
#: 各种令牌里只有密钥以它开头，不论对不对：不当作令牌去解。
KEY_PREFIX: Final = "mpk_"


@dataclass(frozen=True, slots=True)
class KeyPrincipal(Principal):
    """一枚 API 密钥：不是人。

    ``user_id`` 是它的号取负：限额、份额、幂等键都记在它名下，与谁都不撞。
    """

    scopes: frozenset[Scope] = frozenset()

    def may(self, *scopes: Scope) -> bool:
        """有其中之一；admin 有全部。"""
        return self.is_admin or not self.scopes.isdisjoint(scopes)

    @property
    def reads_all(self) -> bool:
        return self.may("read")

    @property
    def key_id(self) -> int | None:
        return -self.user_id

    @property
    def sender(self) -> Sender:
        return Sender(None, self.name)


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """一条已被接受的消息（与收件人无关的部分）。

    ``timestamp`` 是接受时刻；``deliver_at`` 为 None 表示立即；``data`` 是应用自己的
    JSON 对象，原样送达。``key_id`` 是哪一枚 API 密钥发的，人发的没有。
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
    data: AppData | None = None
    receipt: bool = False
    key_id: int | None = None
    #: 发送者的号；id 是整数的就是它，不另记。
    sender_number: int | None = None
    #: 撤回了的：只剩是谁、何时的，没有标题、正文、``data``。
    withdrawn_at: int | None = None

    @property
    def sender_id(self) -> int:
        """发送者的号；系统的是 0。"""
        number = self.sender.id if self.sender_number is None else self.sender_number
        assert not isinstance(number, str), "a sender whose id is a string has a number"
        return number or 0

    @property
    def account(self) -> int:
        """记在谁名下：密钥发的是密钥的（``KeyPrincipal.user_id``），不论替谁发；系统的是 0。"""
        return self.sender_id if self.key_id is None else -self.key_id


class MessageKind(NamedTuple):
    """消息的种类，统计用的。"""

    message_type: str
    priority: int


def kind_of(message: Message) -> MessageKind:
    return MessageKind(message.message_type, message.priority)


class Outgoing(msgspec.Struct, frozen=True, gc=False):
    """一条消息与它要去的人：写进记录的、等着入队的都是它。"""

    message: Message
    recipient_ids: Sequence[int]


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """应用交来的、尚未接受的一条消息；各字段的上下限见 ``MessageService``。

    ``sender``：替谁发的，只有 API 密钥可以说；没有说的是交来它的那一个。

    ``recipient_ids`` 是对外的 id；接受的路上已换成号（``numbers``）。
    """

    recipient_ids: tuple[PersonId, ...]
    title: str
    content: str
    message_type: MessageType = "message"
    priority: int = 0
    expires_in_s: int | None = None
    deliver_at: int | None = None
    data: AppData | None = None
    receipt: bool = False
    sender: Sender | None = None

    @property
    def numbers(self) -> tuple[int, ...]:
        """收件人的号：换过之后才问得。"""
        return self.recipient_ids  # type: ignore[return-value]  # 热路上不 ``cast``


class DraftOptions(TypedDict, total=False):
    """一条消息的可选项，含义同 ``Draft``。"""

    message_type: MessageType
    priority: int
    expires_in_s: int | None
    deliver_at: int | None
    data: AppData | None
    receipt: bool


class Accepted(msgspec.Struct, frozen=True, gc=False):
    """接受的凭据：SQL 已提交，此后消息不会丢（DLV-1）。"""

    message_id: str
    recipient_count: int
    created_at: int


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


class BroadcastView(msgspec.Struct, frozen=True):
    """一条连接此刻该补的广播，按日志的次序；``upto`` 是所依据的日志末尾。"""

    entries: tuple[BroadcastEntry, ...]
    upto: int


class Ack(msgspec.Struct, frozen=True, gc=False):
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


#: 一条用户连接怎样连着的。
Transport = Literal["websocket", "sse"]


class ConnectionInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """一台设备的一条连接；也是 ``online_users:{uid}`` 里每个值的 JSON。"""

    connection_id: str
    device_id: str
    device_info: str
    connect_time: int
    last_heartbeat: int
    ip_address: str
    status: PresenceStatus
    node: str
    transport: Transport = "websocket"


class QueueEntry(msgspec.Struct, frozen=True, kw_only=True):
    """队列里的一项投递任务：一条消息与它的一部分收件人（正文在 ``message_body:<id>``）。"""

    message_id: str
    recipient_ids: tuple[int, ...]
    priority: int
    expires_at: int
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class RecipientState:
    """``GET /messages/{id}/delivery`` 里的一行；记录里的是号，SDK 拿到的是对外的 id。"""

    user_id: PersonId
    status: DeliveryStatus
    attempts: int
    sent_at: int | None
    delivered_at: int | None
    failed_at: int | None
    failure_reason: str | None
