"""频道上的信封：怎样拼，怎样认；任何进程都可以发布，所以先验，再推；推给所有人的几帧只拼一次。

``new_message`` 的文本有固定的开头::

    {"type":"new_message","seq":42,"attempt":0,"message_id":"01J…26 个字符…", …}

除 ``seq`` 与 ``attempt`` 外的部分（*尾*，``tail``）对所有收件人相同：接受时编码一次，
存进 ``message_body:<id>``；Lua 为每个收件人在前面拼上 seq。网关用 ``peek`` 从开头取出
seq 与 id，不解析整帧（实测 0.4 µs，整帧解码约 2.5 µs）。

别的在这里整帧验证一次，不论有多少条连接。合格的原样转发，不重新编码。
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, NamedTuple, NewType, TypeVar

import msgspec
from msgspec import Meta, Raw, Struct, field
from websockets.frames import Frame, Opcode

from ..errors import InvalidInputError, MalformedEnvelopeError
from ..mailbox_model import MailboxEntry
from ..model import MAX_SAFE_INTEGER, Message, MessageType, Sender
from . import json_text
from .frames import (
    Gap,
    InboxSync,
    NewMessageTail,
    Notice,
    Presence,
    ReadSync,
    Receipt,
    Resync,
    Timestamp,
)
from .json_text import accepted_data

#: 一帧 ``new_message`` 的身份：(seq, message_id)。
FrameKey = tuple[int, str]
#: 一帧耐久的广播的身份：进日志的毫秒。
BroadcastId = NewType("BroadcastId", int)
#: 一帧怎么记账：有 seq 的按 seq；耐久的广播按它的号；None 是瞬时的，不记。
PushKey = FrameKey | BroadcastId | None

#: 一帧 ``batch`` 里最多几条，以及拼到多少字节就另起一帧。
BATCH_MAX_MESSAGES: Final = 50
BATCH_MAX_BYTES: Final = 256 * 1024

_HEAD: Final = b'{"type":"new_message","seq":'
_ATTEMPT: Final = b',"attempt":'
#: 第一次推的在开头这么多字节里有它；重试的没有。
FIRST_ATTEMPT: Final = b',"attempt":0,'
HEAD_BYTES: Final = 64
_BROADCAST_HEAD: Final = b'{"type":"new_message","broadcast_id":'
_PREVIOUS: Final = b',"broadcast_prev":'
_WITHDRAWN_HEAD: Final = b'{"type":"withdrawn","seq":'
#: 撤回了的尾在这里有它；别的没有（``redis/lua/deliver.lua`` 也看）。
_WITHDRAWN: Final = b',"withdrawn_at":'
_WITHDRAWN_PLACE: Final = len('"message_id":""') + 26
#: 更新的程序的一种耐久的帧：头一样，占一个 seq，照样推、照样记账（docs/operations.md“升级”）。
#: 我们自己从不在频道上收的几种不算。
_NEWER: Final = rb"(?!welcome|batch|error|ack_result|heartbeat_ack|token_)[a-z][a-z_]{0,31}"
_match_head: Final = re.compile(
    rb'\{"type":"(?:new_message|withdrawn|'
    + _NEWER
    + rb')","seq":(\d{1,18})'
    + _ATTEMPT
    + rb'\d{1,9},"message_id":"([0-9A-Za-z]{26})"'
).match

_match_type: Final = re.compile(
    rb'"message_id":"[0-9A-Za-z]{26}","message_type":"(message|notification|system)"'
).match

#: 别人发布的一帧至多这么大；更大的不去读它。我们自己的正文上限（64 KB）转义之后也不到一半。
MAX_FOREIGN_BYTES: Final = 1024 * 1024
MAX_FOREIGN_DATA_BYTES: Final = 256 * 1024
_NULL: Final = Raw(b"null")


_encoder: Final = msgspec.json.Encoder()


class _Attempted(Struct):
    attempt: int = 0


_attempt_decoder: Final = msgspec.json.Decoder(_Attempted)


def encode_tail(message: Message) -> bytes:
    """``message`` 的尾：去掉开头 ``{`` 的 JSON，对所有收件人相同。"""
    if message.withdrawn_at is not None:
        return _tombstone(message)
    return _encoder.encode(
        NewMessageTail(
            message_id=message.message_id,
            message_type=message.message_type,
            priority=message.priority,
            title=message.title,
            content=message.content,
            sender=message.sender,
            timestamp=message.timestamp,
            expires_at=message.expires_at,
            data=message.data,
        )
    )[1:]


class _Tombstone(NewMessageTail, frozen=True, kw_only=True):
    """撤回了的一条的尾；没有标题、正文、data。"""

    withdrawn_at: int


def _tombstone(message: Message) -> bytes:
    tail = _Tombstone(
        message_id=message.message_id,
        message_type=message.message_type,
        priority=message.priority,
        title="",
        content="",
        sender=message.sender,
        timestamp=message.timestamp,
        expires_at=message.expires_at,
        withdrawn_at=message.withdrawn_at or 0,
    )
    place = _WITHDRAWN_PLACE + 1
    text = _encoder.encode(tail)
    marked = b"%b%d" % (_WITHDRAWN, tail.withdrawn_at)
    return text[1:place] + marked + text[place:].replace(marked, b"", 1)


def new_message(seq: int, attempt: int, tail: bytes) -> bytes:
    """拼出一帧 ``new_message``，撤回了的是 ``withdrawn``。

    Lua 里的拼法必须与此一致（``redis/lua/deliver.lua``、``withdraw.lua``）。
    """
    head = _WITHDRAWN_HEAD if tail.startswith(_WITHDRAWN, _WITHDRAWN_PLACE) else _HEAD
    return b"%b%d%b%d,%b" % (head, seq, _ATTEMPT, attempt, tail)


def broadcast_message(broadcast_id: int, previous: int, tail: bytes) -> bytes:
    """拼出一帧广播的 ``new_message``：没有 seq；``redis/lua/broadcast.lua`` 的拼法必须与此一致。"""
    return b"%b%d%b%d%b0,%b" % (_BROADCAST_HEAD, broadcast_id, _PREVIOUS, previous, _ATTEMPT, tail)


def peek(frame: bytes) -> FrameKey | None:
    """从 ``new_message`` 文本取 (seq, message_id)；开头不是我们拼的样子则 None。

    只看开头，不验证其余部分：None 的帧要走 ``decode_envelope`` 的慢路。
    """
    head = _match_head(frame)
    if head is None:
        return None
    seq, message_id = head.groups()
    return int(seq), message_id.decode()


def is_broadcast(frame: bytes) -> bool:
    """一帧我们拼的广播：不占 seq。"""
    return frame.startswith(_BROADCAST_HEAD)


def peek_type(tail: bytes) -> str:
    """尾里的 ``message_type``；不是我们编的样子则 ``message``。"""
    found = _match_type(tail)
    return found[1].decode() if found else "message"


def peek_attempt(frame: bytes) -> int:
    """``new_message`` 的 attempt；不是我们拼的样子就解码，仍没有则 0。"""
    start = frame.find(_ATTEMPT, len(_HEAD), len(_HEAD) + 32) + len(_ATTEMPT)
    digits = frame[start : frame.find(b",", start)]
    if start >= len(_ATTEMPT) and digits.isdigit():
        return int(digits)
    try:
        return json_text.decode(_attempt_decoder, frame).attempt
    except msgspec.DecodeError:
        return 0


def batch(messages: Sequence[bytes]) -> bytes:
    """把 ``batch_parts`` 的一份合成一帧 ``batch``，不重新编码；撤回的就是它自己。"""
    if messages[0].startswith(_WITHDRAWN_HEAD):
        return messages[0]
    return b'{"type":"batch","messages":[' + b",".join(messages) + b"]}"


def batch_parts(messages: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """按 ``BATCH_MAX_*`` 把若干帧分成一帧 ``batch`` 装得下的几份，次序不变。

    撤回的自成一份：0.1 的客户端不认得它，哪一帧 ``batch`` 里有它就整帧不认，别的消息也到不了手。
    """
    part: list[bytes] = []
    size = 0
    for message in messages:
        alone = message.startswith(_WITHDRAWN_HEAD)
        full = len(part) == BATCH_MAX_MESSAGES or size + len(message) > BATCH_MAX_BYTES
        if part and (alone or full):
            yield part
            part, size = [], 0
        if alone:
            yield [message]
            continue
        part.append(message)
        size += len(message)
    if part:
        yield part


def _null() -> Raw:
    return _NULL


class ForeignMessage(Struct, frozen=True, kw_only=True, tag="new_message", tag_field="type"):
    """别的进程发布的 ``new_message``：必有 id、标题与正文，其余若有则须合格。

    没有 seq（或为 0）的是瞬时消息：不进信箱，推一次就算。
    """

    message_id: Annotated[str, Meta(min_length=1, max_length=64)]
    title: str
    content: str
    seq: Timestamp = 0
    attempt: Annotated[int, Meta(ge=0, le=1000)] = 0
    message_type: MessageType = "message"
    priority: Annotated[int, Meta(ge=0, le=9)] = 0
    sender: Sender | None = None
    timestamp: Timestamp | None = None
    expires_at: Timestamp | None = None
    data: Annotated[Raw, Meta(extra_json_schema={"type": ["object", "null"]})] = field(
        default_factory=_null
    )


_decoder: Final = msgspec.json.Decoder(
    ForeignMessage | ReadSync | InboxSync | Receipt | Presence | Gap | Resync | Notice
)


class _Wellformed(Struct):
    """一项也不取：只看是不是一个完整的 JSON 对象（实测 0.2 µs）。"""


Decoded = TypeVar("Decoded")
_BROKEN: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_wellformed: Final = msgspec.json.Decoder(_Wellformed)


def frame_key(payload: bytes) -> FrameKey | None:
    """``payload`` 的身份；None 表示它合格但不占 seq（瞬时消息与通知）。

    :raises MalformedEnvelopeError: 不是一帧可以推给客户端的文本
    """
    key = peek(payload)
    if key is None:
        return decode_envelope(payload)
    # 开头是我们拼的样子，也可能是别人照着写的
    try:
        _wellformed.decode(payload)
    except _BROKEN as error:
        raise _malformed(error) from None
    return key if 0 < key[0] <= MAX_SAFE_INTEGER else decode_envelope(payload)


def decode_envelope(payload: bytes) -> FrameKey | None:
    """慢路：整帧验证；返回值同 ``frame_key``。"""
    frame = decode_foreign(_decoder, payload)
    if isinstance(frame, ForeignMessage) and frame.data != _NULL:
        try:
            accepted_data(frame.data, MAX_FOREIGN_DATA_BYTES)
        except InvalidInputError as error:
            raise _malformed(error) from None
    if isinstance(frame, ForeignMessage) and frame.seq:
        return frame.seq, frame.message_id
    return None


def decode_foreign(decoder: msgspec.json.Decoder[Decoded], payload: bytes) -> Decoded:
    """频道上的一条，任何进程都可以发布：先看大小，再整帧验证。

    :raises MalformedEnvelopeError: 由读频道的计数后丢弃
    """
    if len(payload) > MAX_FOREIGN_BYTES:
        raise MalformedEnvelopeError(f"larger than {MAX_FOREIGN_BYTES} bytes")
    try:
        return json_text.decode(decoder, payload)
    except _BROKEN as error:
        raise _malformed(error) from None


def _malformed(error: Exception) -> MalformedEnvelopeError:
    return MalformedEnvelopeError(f"not a server frame: {type(error).__name__}")


@dataclass(frozen=True, slots=True)
class FrameRun:
    """``wire`` 是这几帧在线上的字节（服务器发的没有掩码）；``size`` 是各帧内容之和。"""

    frames: tuple[tuple[bytes, PushKey], ...]
    wire: bytes
    size: int

    @classmethod
    def of(cls, frames: Sequence[tuple[bytes, PushKey]]) -> FrameRun:
        wire = b"".join(Frame(Opcode.TEXT, frame).serialize(mask=False) for frame, _ in frames)
        return cls(tuple(frames), wire, sum(len(frame) for frame, _ in frames))


class StoredTail(NewMessageTail, frozen=True, kw_only=True):
    """``data`` 不解开：这里用不着它，0.1 存下的还可能太深。"""

    data: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)


_tail_decoder: Final = msgspec.json.Decoder(StoredTail)


class OfflineMessage(NamedTuple):
    """信箱里的一条，连同正文。"""

    entry: MailboxEntry
    tail: StoredTail


def decode_tail(tail: bytes) -> StoredTail:
    return _tail_decoder.decode(b"{" + tail)
