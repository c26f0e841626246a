"""线上的每一种帧：服务器帧只编码，客户端帧只解码。"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final, Self, TypeVar

import msgspec
from msgspec import Meta, Struct

from ..errors import BadFrameError, InvalidInputError, MeetingPushError
from ..model import (
    MAX_SAFE_INTEGER,
    MAX_USER_ID,
    MessageType,
    PresenceStatus,
    Sender,
)
from ..person_id import MAX_CHARS, PATTERN
from . import json_text

SUBPROTOCOL: Final = "meeting-push.v1"
#: 子协议里携带令牌的前缀；服务器从不回显它。
BEARER_SUBPROTOCOL_PREFIX: Final = "bearer."
MESSAGE_ID_LENGTH: Final = 26
MAX_ACK_IDS: Final = 1_000
MAX_WATCH_IDS: Final = 100
MessageId = Annotated[str, Meta(min_length=MESSAGE_ID_LENGTH, max_length=MESSAGE_ID_LENGTH)]
#: 收进来的 id；``"5"`` 与 5 是一个人，一段字收不收由 ``PersonIds`` 说。
UserId = (
    Annotated[int, Meta(ge=1, le=MAX_USER_ID)]
    # 样子由 ``PersonIds`` 查：认识的不必查，正则在解码时每个要一微秒
    | Annotated[
        str, Meta(min_length=1, max_length=MAX_CHARS, extra_json_schema={"pattern": PATTERN})
    ]
)
RequestId = (
    Annotated[str, Meta(max_length=128)]
    | Annotated[int, Meta(ge=-MAX_SAFE_INTEGER, le=MAX_SAFE_INTEGER)]
)
#: 给出去的 id。
ShownId = Annotated[int, Meta(ge=0, le=MAX_SAFE_INTEGER)] | Annotated[str, Meta(max_length=64)]
#: 时刻、号、个数：不是负的，JavaScript 也读得准。
Whole = Annotated[int, Meta(ge=0, le=MAX_SAFE_INTEGER)]
Timestamp = Whole


# ── 服务器 → 客户端 ──────────────────────────────────────────────────────────


class ServerFrame(Struct, frozen=True, kw_only=True, tag_field="type"):
    """服务器帧之根；``request_id`` 只在回答带它的客户端帧时出现（``omit`` 见 encode）。"""


class Welcome(ServerFrame, frozen=True, kw_only=True, tag="welcome"):
    connection_id: str
    user_id: ShownId
    device_id: str
    epoch: str
    seq: int
    heartbeat_interval_s: float
    heartbeat_timeout_s: float
    max_frame_bytes: int
    token_expires_at: int
    resumed: bool
    pending: int
    server_time: int


class NewMessageTail(Struct, frozen=True, kw_only=True):
    """``new_message`` 除 type、seq、attempt 外的字段，次序即线上次序。"""

    message_id: str
    message_type: MessageType
    priority: int
    title: str
    content: str
    sender: Sender
    timestamp: int
    expires_at: int
    #: 只编码：dict、规范的原文（``AppData``）或没有；读它的一侧自己说类型。
    data: Annotated[Any, Meta(extra_json_schema={"type": ["object", "null"]})] = None


class Withdrawn(ServerFrame, frozen=True, kw_only=True, tag="withdrawn"):
    """发的人撤回了：耐久，有自己的 seq，照样确认；其余各项同 ``new_message``，正文是空的。"""

    seq: int
    attempt: int
    message_id: str
    withdrawn_at: int
    message_type: MessageType
    priority: int
    title: str
    content: str
    sender: Sender
    timestamp: int
    expires_at: int
    data: Annotated[Any, Meta(extra_json_schema={"type": ["object", "null"]})]


class HeartbeatAck(ServerFrame, frozen=True, kw_only=True, tag="heartbeat_ack", omit_defaults=True):
    timestamp: int
    server_time: int
    seq: int
    request_id: str | int | None = None


class AckResult(ServerFrame, frozen=True, kw_only=True, tag="ack_result"):
    accepted: int
    unknown: Sequence[str]
    request_id: str | int


class StatusResult(ServerFrame, frozen=True, kw_only=True, tag="status_result"):
    """``status`` 帧带了 request_id 时的回答。"""

    status: PresenceStatus
    request_id: str | int


class TokenRefreshed(
    ServerFrame, frozen=True, kw_only=True, tag="token_refreshed", omit_defaults=True
):
    token_expires_at: int
    request_id: str | int | None = None


class TokenExpiring(ServerFrame, frozen=True, kw_only=True, tag="token_expiring"):
    token_expires_at: int


class ReadSync(ServerFrame, frozen=True, kw_only=True, tag="read_sync", omit_defaults=True):
    message_ids: Annotated[Sequence[str], Meta(max_length=MAX_ACK_IDS)]
    unread_count: Whole
    request_id: str | int | None = None


class InboxSync(ServerFrame, frozen=True, kw_only=True, tag="inbox_sync", omit_defaults=True):
    """``POST /messages/state`` 改了这些；没有说的那一项没有变。``version`` 只增：小的是旧的。"""

    message_ids: Annotated[Sequence[str], Meta(max_length=MAX_ACK_IDS)]
    unread_count: Whole
    version: Whole
    read: bool | None = None
    archived: bool | None = None


class Receipt(ServerFrame, frozen=True, kw_only=True, tag="receipt"):
    message_id: str
    recipient_id: ShownId
    status: str
    timestamp: Whole


class Presence(ServerFrame, frozen=True, kw_only=True, tag="presence"):
    user_id: ShownId
    online: bool
    status: PresenceStatus | None = None


class WatchResult(ServerFrame, frozen=True, kw_only=True, tag="watch_result"):
    """``watch``、``unwatch`` 带了 request_id 时的回答：此刻共关注多少人。"""

    watching: int
    request_id: str | int


class OpsWatchResult(
    ServerFrame, frozen=True, kw_only=True, tag="ops_watch_result", omit_defaults=True
):
    """``ops_watch`` 的回答；``ops_unwatch`` 带了 request_id 时也是，那时 ``every_s`` 为 0。"""

    every_s: int
    request_id: str | int | None = None


class Ops(ServerFrame, frozen=True, kw_only=True, tag="ops"):
    """管理员在看的：此刻的数，形状同 ``GET /stats``；瞬时的。"""

    at: int
    stats: Annotated[msgspec.Raw, Meta(extra_json_schema={"type": "object"})]


class Gap(ServerFrame, frozen=True, kw_only=True, tag="gap"):
    from_seq: Whole
    to_seq: Whole
    count: Whole
    reason: str


class Resync(ServerFrame, frozen=True, kw_only=True, tag="resync"):
    reason: str
    epoch: str
    seq: Whole


class Notice(ServerFrame, frozen=True, kw_only=True, tag="notice"):
    code: str
    reconnect_after_ms: Whole


class ErrorFrame(ServerFrame, frozen=True, kw_only=True, tag="error", omit_defaults=True):
    code: str
    message: str
    #: 没有默认值：contract 要求它总是出现。
    temporary: bool
    request_id: str | int | None = None

    @classmethod
    def of(cls, error: MeetingPushError, request_id: str | int | None) -> Self:
        """一个请求没有做成；不算坏帧。"""
        return cls(
            code=error.code,
            message=error.message,
            temporary=error.temporary,
            request_id=request_id,
        )


Frame = TypeVar("Frame")

#: 一帧的 UTF-8 文本。
encode: Final[Callable[[ServerFrame], bytes]] = msgspec.json.Encoder().encode


def encode_any(message: Mapping[str, object] | ServerFrame) -> bytes:
    """应用自己的一帧。

    :raises InvalidInputError: ``message`` 没有 ``type`` 或不能编码
    """
    if isinstance(message, ServerFrame):
        return encode(message)
    if not isinstance(message.get("type"), str):
        raise InvalidInputError("a frame needs a type")
    try:
        return msgspec.json.encode(message)
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise InvalidInputError(f"the frame can not be encoded: {error}") from None


# ── 客户端 → 服务器 ──────────────────────────────────────────────────────────


class ClientFrame(Struct, frozen=True, kw_only=True, tag_field="type"):
    request_id: RequestId | None = None


class Heartbeat(ClientFrame, frozen=True, kw_only=True, tag="heartbeat"):
    timestamp: Timestamp
    connection_id: Annotated[str, Meta(max_length=64)] | None = None


class AckFrame(ClientFrame, frozen=True, kw_only=True, tag="ack"):
    """``message_ids`` 与 ``upto`` 至少有一个，由会话检查。"""

    message_ids: Annotated[list[MessageId], Meta(max_length=MAX_ACK_IDS)] = []
    upto: Annotated[int, Meta(ge=0, le=MAX_SAFE_INTEGER)] | None = None


class StatusFrame(ClientFrame, frozen=True, kw_only=True, tag="status"):
    status: PresenceStatus
    device_info: Annotated[str, Meta(max_length=256)] | None = None


class ReadFrame(ClientFrame, frozen=True, kw_only=True, tag="read"):
    message_ids: Annotated[list[MessageId], Meta(min_length=1, max_length=MAX_ACK_IDS)]


class RefreshTokenFrame(ClientFrame, frozen=True, kw_only=True, tag="refresh_token"):
    """驱动验证令牌，再以 ``LineSession.token_refreshed`` 或一个关闭码回来。"""

    token: Annotated[str, Meta(min_length=1, max_length=8192)]

    def __repr__(self) -> str:  # 命令可能进日志，令牌不可以（SEC-2）
        return "RefreshTokenFrame(token=***)"


class WatchFrame(ClientFrame, frozen=True, kw_only=True, tag="watch"):
    user_ids: Annotated[list[UserId], Meta(min_length=1, max_length=MAX_WATCH_IDS)]


class UnwatchFrame(ClientFrame, frozen=True, kw_only=True, tag="unwatch"):
    user_ids: Annotated[list[UserId], Meta(min_length=1, max_length=MAX_WATCH_IDS)]


class OpsWatchFrame(ClientFrame, frozen=True, kw_only=True, tag="ops_watch"):
    every_s: Annotated[int, Meta(ge=1, le=60)] = 2


class OpsUnwatchFrame(ClientFrame, frozen=True, kw_only=True, tag="ops_unwatch"):
    pass


AnyClientFrame = (
    Heartbeat
    | AckFrame
    | StatusFrame
    | ReadFrame
    | RefreshTokenFrame
    | WatchFrame
    | UnwatchFrame
    | OpsWatchFrame
    | OpsUnwatchFrame
)
CLIENT_FRAME_TYPES: Final = frozenset(
    {
        *("heartbeat", "ack", "status", "read", "refresh_token", "watch", "unwatch"),
        *("ops_watch", "ops_unwatch"),
    }
)


class _Typed(Struct):
    type: str


class _Requested(Struct):
    request_id: RequestId | None = None


_request_id_decoder: Final = msgspec.json.Decoder(_Requested)
#: msgspec 在认不出的 ``type`` 之类的地方引用原值：``Invalid value '…' - at `$.type` ``。
_quoted_value: Final = re.compile(r" '.*'", re.DOTALL)
_client_decoder: Final[msgspec.json.Decoder[AnyClientFrame]] = msgspec.json.Decoder(AnyClientFrame)
_type_decoder: Final = msgspec.json.Decoder(_Typed)


def decode_client_frame(text: bytes) -> AnyClientFrame:
    """解码用户连接的一帧；见 ``decode_known``。"""
    return decode_known(_client_decoder, CLIENT_FRAME_TYPES, text)


def decode_known(
    decoder: msgspec.json.Decoder[Frame], known_types: frozenset[str], text: bytes
) -> Frame:
    """解码一帧；错误按 contract 分成三个码，消息里绝不带原文（可能含令牌）。

    :raises BadFrameError: ``invalid_json`` · ``unknown_type`` · ``invalid_frame``
    """
    try:
        return json_text.decode(decoder, text)
    except msgspec.ValidationError as error:
        message = _quoted_value.sub("", str(error))
        raise BadFrameError(_invalid_code(text, known_types), message) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise BadFrameError("invalid_json", "the frame is not valid JSON") from None
    except RecursionError:
        raise BadFrameError("invalid_json", "the frame is nested too deeply") from None


def peek_request_id(text: bytes) -> str | int | None:
    """坏帧里还能认出的 request_id：回答它的 ``error`` 要带上。"""
    try:
        return json_text.decode(_request_id_decoder, text).request_id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _invalid_code(text: bytes, known_types: frozenset[str]) -> str:
    try:
        known = _type_decoder.decode(text).type in known_types
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "invalid_frame"
    return "invalid_frame" if known else "unknown_type"
