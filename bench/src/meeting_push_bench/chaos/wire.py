"""设备听得懂的帧：照契约自己写的，不用产品的编码。"""

from __future__ import annotations

import zlib
from typing import Final

import msgspec

from ..failure import BenchError
from .history import Push


class Sent(msgspec.Struct):
    """发送者放进 ``data`` 的：这条请永不确认。"""

    hold: bool = False


class Message(msgspec.Struct, tag="new_message", tag_field="type"):
    message_id: str
    title: str
    content: str
    seq: int = 0
    broadcast_id: int = 0
    attempt: int = 0
    priority: int = 0
    data: Sent | None = None

    def push(self) -> Push:
        crc = zlib.crc32(self.content.encode())
        return Push(self.seq, self.message_id, self.title, self.attempt, self.priority, crc)

    @property
    def held(self) -> bool:
        return self.data is not None and self.data.hold


class Batch(msgspec.Struct, tag="batch", tag_field="type"):
    messages: list[Message]


class Welcome(msgspec.Struct, tag="welcome", tag_field="type"):
    epoch: str
    seq: int
    resumed: bool
    pending: int


class Gap(msgspec.Struct, tag="gap", tag_field="type"):
    from_seq: int
    to_seq: int
    reason: str


class Resync(msgspec.Struct, tag="resync", tag_field="type"):
    reason: str
    epoch: str
    seq: int


class HeartbeatAck(msgspec.Struct, tag="heartbeat_ack", tag_field="type"):
    seq: int


class Notice(msgspec.Struct, tag="notice", tag_field="type"):
    code: str


class Error(msgspec.Struct, tag="error", tag_field="type"):
    code: str
    temporary: bool


Frame = Message | Batch | Welcome | Gap | Resync | HeartbeatAck | Notice | Error
_decoder: Final[msgspec.json.Decoder[Frame]] = msgspec.json.Decoder(Frame)


def decode(text: str | bytes) -> Frame:
    """:raises BenchError: 契约里没有的帧，或缺了字段"""
    try:
        return _decoder.decode(text)
    except msgspec.DecodeError as error:
        raise BenchError(f"a frame outside the contract: {error}") from None


def heartbeat(now: int) -> str:
    return f'{{"type":"heartbeat","timestamp":{now}}}'


def ack(message_ids: tuple[str, ...], upto: int | None) -> str:
    frame: dict[str, object] = {"type": "ack"}
    if upto is None:
        frame["message_ids"] = message_ids
    else:
        frame["upto"] = upto
    return msgspec.json.encode(frame).decode()
