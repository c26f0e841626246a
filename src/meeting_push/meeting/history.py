"""补发：从记录里成批读出这条连接没有的段，赶上房间就转为实时。"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from ..contracts import MeetingDesk
from ..model import Segment
from ..protocol.frames import batch_parts, encode
from ..websocket.patience import patiently
from .connection import MeetingConnection
from .frames import SegmentFrame, history
from .room import Room

#: 一次从记录里读几段。
PAGE: Final = 200


class History:
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

            await self._push(connection, room, await patiently(read))
        room.finish_if_over()

    async def _push(
        self, connection: MeetingConnection, room: Room, page: Sequence[Segment]
    ) -> None:
        frames = [encode(SegmentFrame.of(segment)) for segment in page]
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
