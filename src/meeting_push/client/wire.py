"""客户端这一侧的编解码：服务器帧只解码，客户端帧只编码。"""

from __future__ import annotations

import contextlib
from typing import Any, Final, Literal

import msgspec

from ..model import MessageType, Sender
from ..protocol import frames, json_text


class NewMessage(
    frames.NewMessageTail, frozen=True, kw_only=True, tag_field="type", tag="new_message"
):
    """``new_message``；没有 seq 也没有 broadcast_id 的是瞬时消息：不落信箱，也不必确认。"""

    data: dict[str, Any] | None = None
    seq: int | None = None
    broadcast_id: int | None = None
    attempt: int = 0


class Batch(frames.ServerFrame, frozen=True, kw_only=True, tag="batch"):
    messages: list[NewMessage | frames.Withdrawn]


#: 应用可以 ``on`` 的。
Event = (
    frames.Withdrawn
    | frames.ReadSync
    | frames.InboxSync
    | frames.Receipt
    | frames.Presence
    | frames.Gap
    | frames.Resync
    | frames.Notice
    | frames.ErrorFrame
)
AnyServerFrame = (
    NewMessage
    | Batch
    | frames.Welcome
    | frames.HeartbeatAck
    | frames.AckResult
    | frames.StatusResult
    | frames.WatchResult
    | frames.TokenRefreshed
    | frames.TokenExpiring
    | Event
)


class _Published(msgspec.Struct, kw_only=True, tag_field="type", tag="new_message"):
    """别的程序直接往频道里发的：只有这三样非有不可；有号的不是。"""

    message_id: str
    title: str
    content: str
    message_type: MessageType = "message"
    priority: int = 0
    sender: Sender | None = None
    timestamp: int | None = None
    expires_at: int | None = None
    data: dict[str, Any] | None = None
    seq: Literal[0] | None = None
    broadcast_id: None = None


class _Parts(msgspec.Struct, tag_field="type", tag="batch"):
    messages: list[msgspec.Raw]


_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_decoder: Final = msgspec.json.Decoder(AnyServerFrame)
_parts: Final = msgspec.json.Decoder(_Parts)
_published: Final = msgspec.json.Decoder(_Published)
_message: Final = msgspec.json.Decoder(NewMessage | frames.Withdrawn)
_encoder: Final = msgspec.json.Encoder()


def decode(text: bytes) -> AnyServerFrame | None:
    """一帧；看不懂的（将来的类型、坏掉的）为 None：其中的消息没被确认，不会丢。"""
    try:
        frame: AnyServerFrame = json_text.decode(_decoder, text)
    except _UNREADABLE:
        return _transient(text) or _salvaged(text)
    return frame


def _transient(text: bytes) -> NewMessage | None:
    """没有写发的人的，是系统发的。"""
    try:
        one: _Published = json_text.decode(_published, text)
    except _UNREADABLE:
        return None
    return NewMessage(
        message_id=one.message_id,
        message_type=one.message_type,
        priority=one.priority,
        title=one.title,
        content=one.content,
        sender=one.sender or Sender(None, ""),
        timestamp=one.timestamp or 0,
        expires_at=one.expires_at or 0,
        data=one.data,
    )


def _salvaged(text: bytes) -> Batch | None:
    """一批里有一条看不懂，别的照收：它自己没被确认，由服务器去重试、放弃。"""
    try:
        parts = _parts.decode(text).messages
    except _UNREADABLE:
        return None
    messages = []
    for part in parts:
        with contextlib.suppress(*_UNREADABLE):
            messages.append(json_text.decode(_message, bytes(part)))
    return Batch(messages=messages)


def encode(frame: frames.ClientFrame) -> bytes:
    return _encoder.encode(frame)
