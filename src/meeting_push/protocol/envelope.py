"""频道上的信封：任何进程都可以发布，所以先验，再推。

自己人拼的 ``new_message`` 由 ``frames.peek`` 认出（热路径）；其余的在这里整帧验证一次，
不论有多少条连接。合格的原样转发，不重新编码。
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from ..errors import MalformedEnvelopeError
from ..model import MessageType, Sender
from .frames import Gap, Notice, Presence, ReadSync, Receipt, Resync, peek

#: 一帧 ``new_message`` 的身份：(seq, message_id)。
FrameKey = tuple[int, str]
#: 一帧怎么记账：有 seq 的按 seq；耐久的广播按 ``broadcast_id``；None 是瞬时的，不记。
PushKey = FrameKey | int | None

_MAX_SEQ: Final = 2**53


class ForeignMessage(Struct, frozen=True, kw_only=True, tag="new_message", tag_field="type"):
    """别的进程发布的 ``new_message``：必有 id、标题与正文，其余若有则须合格。

    没有 seq（或为 0）的是瞬时消息：不进信箱，推一次就算。
    """

    message_id: Annotated[str, Meta(min_length=1, max_length=64)]
    title: str
    content: str
    seq: Annotated[int, Meta(ge=0, le=_MAX_SEQ)] = 0
    attempt: Annotated[int, Meta(ge=0, le=1000)] = 0
    message_type: MessageType = "message"
    priority: Annotated[int, Meta(ge=0, le=9)] = 0
    sender: Sender | None = None
    timestamp: Annotated[int, Meta(ge=0, le=_MAX_SEQ)] | None = None
    expires_at: Annotated[int, Meta(ge=0, le=_MAX_SEQ)] | None = None
    data: dict[str, Any] | None = None


_decoder: Final = msgspec.json.Decoder(
    ForeignMessage | ReadSync | Receipt | Presence | Gap | Resync | Notice
)


def frame_key(payload: bytes) -> FrameKey | None:
    """``payload`` 的身份；None 表示它合格但不占 seq（瞬时消息与通知）。

    :raises MalformedEnvelopeError: 不是一帧可以推给客户端的文本
    """
    key = peek(payload)
    if key is None or not payload.endswith(b"}"):
        return decode_envelope(payload)
    return key if key[0] else None


def decode_envelope(payload: bytes) -> FrameKey | None:
    """慢路：整帧验证；返回值同 ``frame_key``。"""
    try:
        frame = _decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedEnvelopeError(f"not a server frame: {type(error).__name__}") from None
    if isinstance(frame, ForeignMessage) and frame.seq:
        return frame.seq, frame.message_id
    return None
