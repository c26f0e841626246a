"""一场会议在本节点的样子：谁连着，推到了第几段，次序由它保证。

频道上的段可能乱序（两个节点先后提交、先后发布，到达却相反），也可能漏（Redis 断过、发布者
死在提交与发布之间）。段号连续无洞，所以看得出来：先到的等着，久等不来的从记录里补（DLV-5）。
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from ..model import RECORDER_ROLE, MeetingPosition
from ..protocol.codes import CloseCode
from ..protocol.frames import encode
from .connection import MeetingConnection
from .frames import BusFrame, Ended, Join, Leave, Removed, SegmentFrame

#: 先到而等着前面的，至多留几段；再多的反正能从记录里读。
MAX_AHEAD: Final = 256


class Room:
    """都是同步的，不抛出；``on_behind`` 须去补（``advance`` 由它推进），可能重复调用。"""

    def __init__(
        self, meeting_id: str, clock: Callable[[], int], on_behind: Callable[[Room], None]
    ) -> None:
        self.meeting_id = meeting_id
        #: 写时复制：分发正在遍历旧的，连接可以放心离开。
        self.connections: tuple[MeetingConnection, ...] = ()
        #: 已推到第几段；``newest`` 是已知存在的最新一段。
        self.seq = 0
        self.newest = 0
        self.ended: Ended | None = None
        #: 据已推的 join、leave，谁在场；``presence_version`` 随每一帧加一。
        self.online: dict[int, str] = {}
        self.presence_version = 0
        #: 订阅并读出起点；第一条连接启动它，大家一起等。
        self.opening: asyncio.Task[None] | None = None
        self.catching_up: asyncio.Task[None] | None = None
        self._clock = clock
        self._on_behind = on_behind
        self._started = False
        self._ahead: dict[int, bytes] = {}

    @property
    def behind(self) -> bool:
        return self.newest > self.seq

    @property
    def over(self) -> bool:
        """已结束，且每一段都推过了。"""
        return self.ended is not None and self.seq >= self.ended.seq

    def add(self, connection: MeetingConnection) -> None:
        self.connections = (*self.connections, connection)

    def remove(self, connection: MeetingConnection) -> bool:
        """不在其中则 False。"""
        before = len(self.connections)
        self.connections = tuple(c for c in self.connections if c is not connection)
        return len(self.connections) < before

    # ── 频道 ────────────────────────────────────────────────────────────────

    def take(self, frame: BusFrame, payload: bytes) -> None:
        """频道上的一帧；``payload`` 是它的原文。"""
        match frame:
            case SegmentFrame(seq=None):
                now = self._clock()
                for connection in self.connections:
                    connection.push_interim(payload, now)
            case SegmentFrame(seq=int(seq)):
                self._take_segment(seq, payload)
            case Join() | Leave():
                self.restate(frame, payload)
            case Removed():
                self.expel(lambda user_id: user_id == frame.user_id)
            case Ended():
                self.end(frame)

    def _take_segment(self, seq: int, payload: bytes) -> None:
        if seq > self.seq and len(self._ahead) < MAX_AHEAD:
            self._ahead[seq] = payload
        self.note(seq)

    def restate(self, frame: Join | Leave, payload: bytes) -> None:
        """推一帧在场的变化；自己的到场不必告诉自己。"""
        self.presence_version += 1
        if isinstance(frame, Join):
            self.online[frame.user_id] = frame.name
        else:
            self.online.pop(frame.user_id, None)
        now = self._clock()
        for connection in self.connections:
            principal = connection.session.principal
            if principal is None or principal.user_id != frame.user_id:
                connection.push_presence(payload, now)

    def expel(self, is_gone: Callable[[int], bool]) -> None:
        """不再是参与者的人的连接；识别器从来不是。"""
        for connection in self.connections:
            principal = connection.session.principal
            if principal and principal.role != RECORDER_ROLE and is_gone(principal.user_id):
                connection.close(CloseCode.FORBIDDEN)

    # ── 进度 ────────────────────────────────────────────────────────────────

    def start(self, position: MeetingPosition) -> None:
        """起点：订阅之后读到的记录。此前的由各连接自己从记录里补。"""
        self._started = True
        self.seq = position.seq
        self._ahead = {seq: frame for seq, frame in self._ahead.items() if seq > self.seq}
        self.reconcile(position)

    def reconcile(self, position: MeetingPosition) -> None:
        """与记录核对：漏了段、漏了结束，都在这里看出来。"""
        self.note(position.seq)
        if position.ended_at is not None:
            self.end(Ended(seq=position.seq, ended_at=position.ended_at))

    def note(self, seq: int) -> None:
        """已知 ``seq`` 存在。"""
        self.newest = max(self.newest, seq)
        if not self._started:
            return
        while (payload := self._ahead.pop(self.seq + 1, None)) is not None:
            self.advance(self.seq + 1, payload)
        if self.behind:
            self._on_behind(self)

    def advance(self, seq: int, payload: bytes) -> None:
        """推下一段；不是下一段的（已推过的）忽略。"""
        if seq != self.seq + 1:
            return
        self.seq = seq
        self._ahead.pop(seq, None)
        now = self._clock()
        for connection in self.connections:
            connection.push_segment(seq, payload, now)
        self.finish_if_over()

    def end(self, frame: Ended) -> None:
        self.ended = self.ended or frame
        self.note(frame.seq)
        self.finish_if_over()

    def finish_if_over(self) -> None:
        """送走补发完毕的；还在补发的，补完自己走。"""
        if self.ended is None or not self._started or not self.over:
            return
        farewell, now = encode(self.ended), self._clock()
        for connection in self.connections:
            if connection.live:
                connection.finish(farewell, now)
