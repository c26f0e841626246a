"""一条 SSE 流：与 WebSocket 同一个会话，另记着真正写到了哪里；一帧 → 一个事件的字节。

事件的 ``id`` 是 **位置** ``<epoch>:<seq>``：这个 seq 为止的，都已写在这条流上（或不会再来）。重连时
以 ``Last-Event-ID`` 带回来；没有确认的、在它之前的，信箱里还有，照样再来。

会话的账（``SentSeqs``）在放行时一次记好几帧，写却是一帧一帧写的，所以不能拿来当位置：断在中间的，
没有写到的就丢了。这里记的是交给发件箱的那一刻；发件箱不改次序。
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from ..errors import MalformedEnvelopeError
from ..mailbox_model import MailboxView
from .codes import CloseCode
from .commands import Beat, Command
from .envelope import frame_key, is_broadcast, peek
from .frames import Gap
from .limits import Limits
from .sent import SentSeqs
from .session import Session

#: 一行注释：代理与客户端由此知道线还在。
COMMENT: Final = b":\n\n"
COMMENT_EVERY_MS: Final = 15_000
#: 心跳的期限若设得很短，注释也要跟上。
_BEATS_A_TIMEOUT: Final = 4

_GAP: Final = b'{"type":"gap"'
_gaps: Final = msgspec.json.Decoder(Gap)


class StreamPosition:
    """写到了哪里。"""

    __slots__ = ("_awaited", "_epoch", "_upto", "_written")

    def __init__(self) -> None:
        self._epoch = ""
        self._written = SentSeqs()
        #: 读到了、还没有写的：它们之前的才算写到了。
        self._awaited: set[int] | None = None
        #: 读到哪里：不在其中的，不会再来。
        self._upto = 0

    def __str__(self) -> str:
        return f"{self._epoch}:{self._written.floor}"

    def read(self, view: MailboxView, gaps: Iterable[bytes], upto: int = 0) -> None:
        """读了一次信箱；``gaps``：随后要说的，其中的 ``gap`` 帧也要写了才算。

        :param upto: 前一条流已写到这里
        """
        if view.epoch != self._epoch:
            self._epoch, self._written, self._awaited = view.epoch, SentSeqs(), None
            self._upto = 0
        self._written.settle(upto)
        found = [entry.seq for entry in view.entries]
        found += [_gaps.decode(frame).from_seq for frame in gaps if frame.startswith(_GAP)]
        self._await(seq for seq in found if seq not in self._written)
        self._upto = max(self._upto, view.seq)
        self._settle()

    def wrote(self, seqs: Iterable[int]) -> None:
        awaited = self._awaited
        for seq in seqs:
            self._written.add(seq)
            if awaited is not None:
                awaited.discard(seq)
        if awaited is not None:
            self._settle()

    def wrote_gap(self, frame: bytes) -> None:
        if self._awaited is not None:
            self._awaited.discard(_gaps.decode(frame).from_seq)
            self._settle()

    def _await(self, seqs: Iterable[int]) -> None:
        self._awaited = {*(self._awaited or ()), *seqs}

    def _settle(self) -> None:
        if self._awaited:
            self._written.settle(min(self._awaited) - 1)
        else:
            self._awaited = None
            self._written.settle(self._upto)


class EventSession(Session):
    """客户端不在这里说话：确认走 REST，到期的令牌换一条新的流；还在不在，看写不写得出去。"""

    __slots__ = ("_comment_at", "_comment_every_ms", "progress", "resumed_at")

    def __init__(self, user_id: int, connection_id: str, limits: Limits, now: int) -> None:
        super().__init__(user_id, connection_id, limits, now)
        self.progress = StreamPosition()
        #: 设备说它已有到这里；被接受了才算。
        self.resumed_at = 0
        self._comment_every_ms = min(
            COMMENT_EVERY_MS, limits.heartbeat_timeout_ms // _BEATS_A_TIMEOUT
        )
        self._comment_at = now + self._comment_every_ms

    def welcome(
        self, view: MailboxView, device_id: str, now: int, person: str | None = None
    ) -> list[bytes]:
        frames = super().welcome(view, device_id, now, person)
        self.progress.read(view, frames, self.resumed_at if view.resumed else 0)
        return frames

    def reread(self, view: MailboxView) -> list[bytes]:
        frames = super().reread(view)
        self.progress.read(view, frames)
        return frames

    def batch(self, messages: Sequence[bytes], now: int) -> bytes:
        frame = super().batch(messages, now)
        keys = (peek(message) for message in messages)
        self.progress.wrote(key[0] for key in keys if key is not None)
        return frame

    def event(self, frame: bytes) -> bytes:
        """``frame`` 这就要写出去了。"""
        if frame.startswith(_GAP):
            self.progress.wrote_gap(frame)
        elif (seq := _seq_of(frame)) is not None:
            self.progress.wrote((seq,))
        return b"id: %b\ndata: %b\n\n" % (str(self.progress).encode(), on_one_line(frame))

    def tick(self, now: int, amnesty: int = 0) -> Command | None:
        command = super().tick(now, amnesty)
        if command is None and self.greeted and now >= self._comment_at:
            self._comment_at = now + self._comment_every_ms
            return Beat(COMMENT)
        return command

    def next_tick(self, now: int) -> int:
        return min(super().next_tick(now), self._comment_at)


def closing_event(code: int) -> bytes:
    """最后一个事件；码的含义同 WebSocket 的关闭码。"""
    name = CloseCode(code).reason
    return b'event: close\ndata: {"code":%d,"name":"%b"}\n\n' % (code, name.encode())


def on_one_line(frame: bytes) -> bytes:
    """别的进程发布的帧里可以有换行；在 JSON 里它们只是空白，在这里会另起一行。"""
    if b"\n" in frame or b"\r" in frame:
        return frame.replace(b"\r", b" ").replace(b"\n", b" ")
    return frame


def _seq_of(frame: bytes) -> int | None:
    """占 seq 的，它的 seq。"""
    key = peek(frame)
    if key is None and not is_broadcast(frame):
        try:
            key = frame_key(frame)
        except MalformedEnvelopeError:  # 我们自己的 welcome、batch …
            return None
    return None if key is None else key[0]
