"""本节点的房间：第一条连接打开（先订阅，后读起点），最后一条离开时关上。"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Final

from loguru import logger

from ..contracts import MeetingDesk
from ..errors import MalformedEnvelopeError
from ..model import MeetingPosition, Segment
from ..protocol.frames import encode
from ..redis.meeting_bus import MeetingBus
from ..websocket.patience import patiently
from ..websocket.tasks import Tasks
from .connection import MeetingConnection
from .frames import SegmentFrame, decode_bus_frame
from .history import PAGE
from .room import Room
from .statistics import MeetingCounters

#: 断号之后等多久再去读记录：多半只是两个节点的发布交错了。
HOLE_PATIENCE_S: Final = 0.05


class Rooms:
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
                for segment in page:
                    room.advance(segment.seq, encode(SegmentFrame.of(segment)))
                if not page:
                    self._distrust(room)
        finally:
            room.catching_up = None

    async def _read(self, room: Room) -> list[Segment]:
        return await self._desk.read(room.meeting_id, room.seq, PAGE)

    def _distrust(self, room: Room) -> None:
        """频道上有人声称了记录里没有的号。"""
        logger.bind(meeting_id=room.meeting_id, seq=room.newest).warning("meeting_seq_unknown")
        room.newest = room.seq
