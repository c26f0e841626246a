"""会议 WebSocket 的帧；与用户连接相同的（心跳、换令牌、``error``）用 ``frames.py`` 里的。

服务器帧的文本也就是各节点之间在会议频道上传的东西：收到的原样转发，不重新编码。
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from ..meeting_model import Segment
from ..person_id import PersonId
from ..protocol.envelope import decode_foreign
from ..protocol.frames import (
    ClientFrame,
    Heartbeat,
    RefreshTokenFrame,
    ServerFrame,
    ShownId,
    Timestamp,
    Whole,
    decode_known,
)

MAX_SPEAKER_CHARS: Final = 128


# ── 服务器 → 客户端 ──────────────────────────────────────────────────────────


class Attendee(Struct, frozen=True):
    """``welcome`` 里的一个人。"""

    user_id: ShownId
    name: str
    online: bool


class MeetingWelcome(ServerFrame, frozen=True, kw_only=True, tag="welcome"):
    """第一帧；``seq`` 是会议最新一段的号，``participants`` 也含在场的识别器。"""

    connection_id: str
    meeting_id: str
    title: str
    user_id: ShownId
    seq: int
    participants: Sequence[Attendee]
    ended_at: int | None
    heartbeat_interval_s: float
    heartbeat_timeout_s: float
    max_frame_bytes: int
    max_text_chars: int
    token_expires_at: int
    server_time: int


class SegmentFrame(ServerFrame, frozen=True, kw_only=True, tag="segment"):
    """一段转录；临时的（``interim``）没有号，也不保存。"""

    seq: Whole | None
    interim: bool
    speaker: str
    text: str
    start_ms: Whole
    end_ms: Whole
    sender_id: ShownId
    timestamp: Whole

    @classmethod
    def of(cls, segment: Segment, shown: Mapping[int, PersonId]) -> SegmentFrame:
        """``shown``：号 → 对外的 id。"""
        fields = asdict(segment)
        fields["sender_id"] = shown[segment.sender_id]
        return cls(interim=False, **fields)


class SegmentResult(ServerFrame, frozen=True, kw_only=True, tag="segment_result"):
    """带 request_id 的 ``segment`` 的回答：最终的已保存（``seq``），临时的已发布（None）。"""

    seq: int | None
    request_id: str | int


class Join(ServerFrame, frozen=True, kw_only=True, tag="join"):
    """某人的第一条连接到场；由 Redis 里的脚本拼出（``lua/meeting_presence.lua``）。"""

    user_id: ShownId
    name: str
    online: bool
    timestamp: Whole


class Leave(ServerFrame, frozen=True, kw_only=True, tag="leave"):
    """某人的最后一条连接离开。"""

    user_id: ShownId
    name: str
    online: bool
    timestamp: Whole


class Removed(ServerFrame, frozen=True, kw_only=True, tag="removed"):
    """某人不再是参与者：只在各节点之间，他的连接随即以 4501 关闭；``user_id`` 是号。"""

    user_id: int


class Ended(ServerFrame, frozen=True, kw_only=True, tag="ended"):
    """会议结束；``seq`` 之前的每一段都已推过，随后以 1000 关闭。"""

    seq: Whole
    ended_at: Whole


BusFrame = SegmentFrame | Join | Leave | Removed | Ended
_bus_decoder: Final[msgspec.json.Decoder[BusFrame]] = msgspec.json.Decoder(BusFrame)


def decode_bus_frame(payload: bytes) -> BusFrame:
    """会议频道上的一条；任何进程都可以发布，所以整帧验证。

    :raises MalformedEnvelopeError: 不是一帧可以推给客户端的文本
    """
    return decode_foreign(_bus_decoder, payload)


def history(segments: Sequence[bytes], *, complete: bool) -> bytes:
    """把若干帧 ``segment`` 合成一帧 ``history``，不重新编码。"""
    flag = b"true" if complete else b"false"
    return b'{"type":"history","segments":[%b],"complete":%b}' % (b",".join(segments), flag)


# ── 客户端 → 服务器 ──────────────────────────────────────────────────────────


class SegmentIn(ClientFrame, frozen=True, kw_only=True, tag="segment"):
    """``start_ms``、``end_ms`` 从录音开始算起；``speaker`` 只看识别器的，别人总是自己的名字。"""

    text: str
    start_ms: Timestamp
    end_ms: Timestamp
    speaker: Annotated[str, Meta(max_length=MAX_SPEAKER_CHARS)] | None = None
    interim: bool = False


AnyMeetingFrame = Heartbeat | RefreshTokenFrame | SegmentIn
MEETING_FRAME_TYPES: Final = frozenset({"heartbeat", "refresh_token", "segment"})
_client_decoder: Final[msgspec.json.Decoder[AnyMeetingFrame]] = msgspec.json.Decoder(
    AnyMeetingFrame
)


def decode_meeting_frame(text: bytes) -> AnyMeetingFrame:
    """:raises BadFrameError: 见 ``frames.decode_known``"""
    return decode_known(_client_decoder, MEETING_FRAME_TYPES, text)
