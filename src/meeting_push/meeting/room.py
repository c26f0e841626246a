"""一场会议在本节点的样子：谁连着，推到了第几段，次序由它保证；补发；本节点的各个房间。

频道上的段可能乱序（两个节点先后提交、先后发布，到达却相反），也可能漏（Redis 断过、发布者
死在提交与发布之间）。段号连续无洞，所以看得出来：先到的等着，久等不来的从记录里补（DLV-5）。
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from ..errors import MalformedEnvelopeError
from ..logs import logger
from ..meeting_model import MeetingPosition, Segment
from ..model import RECORDER_ROLE
from ..person_id import PersonId
from ..protocol.codes import CloseCode
from ..protocol.envelope import batch_parts
from ..protocol.frames import encode
from ..redis.meeting_bus import MeetingBus
from ..supervision import Tasks, patiently
from .connection import MeetingConnection, MeetingCounters
from .frames import BusFrame, Ended, Join, Leave, Removed, SegmentFrame, decode_bus_frame, history
from .service import MeetingDesk

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
        self.online: dict[PersonId, str] = {}
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
            if principal is None or principal.person != frame.user_id:
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


async def frames_of(desk: MeetingDesk, page: Sequence[Segment]) -> list[bytes]:
    """各段的帧，说话的人是对外的 id；错误同 ``MeetingDesk``。"""
    shown = await desk.shown(segment.sender_id for segment in page)
    return [encode(SegmentFrame.of(segment, shown)) for segment in page]


#: 一次从记录里读几段。
PAGE: Final = 200


class History:
    """补发：从记录里成批读出这条连接没有的段，赶上房间就转为实时。"""

    def __init__(self, desk: MeetingDesk, clock: Callable[[], int]) -> None:
        self._desk = desk
        self._clock = clock

    async def replay(self, connection: MeetingConnection, room: Room) -> None:
        """推完 ``session.seq`` 之后的段；返回时已是实时，或已关闭。

        最后一帧 ``history`` 的 ``complete`` 为 true：它与转为实时之间没有缝隙，此后的段都
        作为 ``segment`` 到来。
        """
        while not connection.live and connection.closing_since is None:
            after = connection.session.seq

            async def read(after: int = after) -> list[Segment]:
                return await self._desk.read(room.meeting_id, after, PAGE)

            page = await patiently(read)
            await self._push(connection, room, page, await self._frames(page))
        room.finish_if_over()

    async def _frames(self, page: Sequence[Segment]) -> list[bytes]:
        return await patiently(lambda: frames_of(self._desk, page))

    async def _push(
        self,
        connection: MeetingConnection,
        room: Room,
        page: Sequence[Segment],
        frames: Sequence[bytes],
    ) -> None:
        pushed = 0
        for part in list(batch_parts(frames)) or [()]:
            await connection.writable()
            if connection.closing_since is not None:
                return
            pushed += len(part)
            if pushed:
                connection.session.seq = page[pushed - 1].seq
            whole = pushed == len(page) < PAGE
            # 读的时候房间又推了新的，就还要再读一页；空页则没有什么可等的
            complete = whole and (not page or room.seq <= connection.session.seq)
            connection.live = complete
            connection.send(history(part, complete=complete), self._clock())


#: 断号之后等多久再去读记录：多半只是两个节点的发布交错了。
HOLE_PATIENCE_S: Final = 0.05


class OpenRooms:
    """本节点的房间：第一条连接打开（先订阅，后读起点），最后一条离开时关上。"""

    def __init__(
        self,
        desk: MeetingDesk,
        bus: MeetingBus,
        tasks: Tasks,
        counters: MeetingCounters,
        clock: Callable[[], int],
    ) -> None:
        self._desk = desk
        self._bus = bus
        self._tasks = tasks
        self._counters = counters
        self._clock = clock
        self._by_channel: dict[bytes, Room] = {}

    def __iter__(self) -> Iterator[Room]:
        """此刻全部房间的快照。"""
        return iter(list(self._by_channel.values()))

    def __len__(self) -> int:
        return len(self._by_channel)

    def find(self, meeting_id: str) -> Room | None:
        return self._by_channel.get(self._bus.channel(meeting_id))

    def on_channel_message(self, channel: bytes, payload: bytes) -> None:
        """会议频道上的一条；同步，不抛出。"""
        room = self._by_channel.get(channel)
        if room is None:
            self._counters.drops["no_connection"] += 1  # 退订在途
            return
        try:
            room.take(decode_bus_frame(payload), payload)
        except MalformedEnvelopeError:
            self._counters.drops["malformed_envelope"] += 1

    # ── 开与关 ──────────────────────────────────────────────────────────────

    async def enter(self, connection: MeetingConnection) -> Room:
        """登记连接，等到房间打开：此后发布的都会到达。Redis、数据库不可用就一直等。

        可取消：登记由 ``leave`` 撤销。
        """
        channel = self._bus.channel(connection.meeting_id)
        room = self._by_channel.get(channel)
        if room is None:
            room = Room(connection.meeting_id, self._clock, self._on_behind)
            self._by_channel[channel] = room
            room.opening = self._tasks.spawn(self._open(room), "meeting_open")
        room.add(connection)
        assert room.opening is not None, "a room is opened where it is made"
        await asyncio.shield(room.opening)
        return room

    async def _open(self, room: Room) -> None:
        async def position() -> MeetingPosition:
            await self._bus.subscribe(room.meeting_id)
            return (await self._desk.positions([room.meeting_id]))[room.meeting_id]

        room.start(await patiently(position))

    def leave(self, connection: MeetingConnection) -> bool:
        """注销连接；不在任何房间则 False。"""
        room = self.find(connection.meeting_id)
        if room is None or not room.remove(connection):
            return False
        if not room.connections:
            self._close(room)
        return True

    def _close(self, room: Room) -> None:
        del self._by_channel[self._bus.channel(room.meeting_id)]
        self._bus.unsubscribe(room.meeting_id)
        for task in (room.opening, room.catching_up):
            if task is not None:
                task.cancel()

    # ── 补漏 ────────────────────────────────────────────────────────────────

    def _on_behind(self, room: Room) -> None:
        if room.catching_up is None:
            room.catching_up = self._tasks.spawn(self._catch_up(room), "meeting_catch_up")

    async def _catch_up(self, room: Room) -> None:
        """段号的次序就是提交的次序，所以看见 n 号时，比它小的都已读得到。"""
        try:
            await asyncio.sleep(HOLE_PATIENCE_S)
            while room.behind:
                page = await patiently(lambda: self._read(room))
                self._counters.segments_reread += len(page)
                frames = await self._frames(page)
                for segment, frame in zip(page, frames, strict=True):
                    room.advance(segment.seq, frame)
                if not page:
                    self._distrust(room)
        finally:
            room.catching_up = None

    async def _read(self, room: Room) -> list[Segment]:
        return await self._desk.read(room.meeting_id, room.seq, PAGE)

    async def _frames(self, page: Sequence[Segment]) -> list[bytes]:
        return await patiently(lambda: frames_of(self._desk, page))

    def _distrust(self, room: Room) -> None:
        """频道上有人声称了记录里没有的号。"""
        logger.bind(meeting_id=room.meeting_id, seq=room.newest).warning("meeting_seq_unknown")
        room.newest = room.seq
