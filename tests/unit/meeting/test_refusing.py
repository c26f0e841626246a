"""A11：会议的门口一再拒绝同一个人：关闭帧晚些才说，此刻起就不理他；别人的不受影响。"""

from __future__ import annotations

import asyncio

import pytest

from meeting_push.limits.rate import RefusalPace
from meeting_push.meeting.connection import MeetingConnection
from meeting_push.meeting.hub import MeetingHub
from meeting_push.model import Principal
from meeting_push.protocol.codes import CloseCode
from meeting_push.protocol.commands import Command
from meeting_push.protocol.envelope import FrameRun
from meeting_push.websocket.admission import Admission
from tests.support.limits import meeting_limits_with
from tests.support.stand_ins import Seats, Verifier, authenticator_of

LIMITS = meeting_limits_with()


class Line:
    """驱动：记下说过的关闭码。"""

    def __init__(self) -> None:
        self.closed: list[int] = []

    def write(self, frame: bytes) -> None:
        raise AssertionError("a refused device is told nothing else")

    def write_run(self, run: FrameRun) -> None:
        raise AssertionError("a refused device is told nothing else")

    def close(self, code: int, reason: str) -> None:
        self.closed.append(code)

    def abort(self) -> None:
        raise AssertionError("it is closed, not cut off")


class Hub(MeetingHub):
    """记下收到的命令，与当时就让出的。"""

    def __init__(self) -> None:
        pace = RefusalPace(per_s=0.001, burst=1, delay_s=1_000)
        super().__init__(
            authenticator=authenticator_of(Verifier()),
            desk=None,  # type: ignore[arg-type]  # 走不到记录台
            bus=None,  # type: ignore[arg-type]
            limits=LIMITS,
            admission=Admission(LIMITS.line.arrivals, pace),
            seats=Seats(),
            clock=lambda: 0,
        )
        self.commands: list[Command] = []
        self.departed = 0

    def on_command(self, connection: MeetingConnection, command: Command) -> None:
        self.commands.append(command)

    def _depart(self, connection: MeetingConnection) -> None:
        self.departed += 1


class Door:
    def __init__(self) -> None:
        self.hub = Hub()

    def turn_away(self, user_id: int | None) -> tuple[MeetingConnection, Line]:
        """``user_id`` 为 None：还不知道是谁。都来自同一个地址。"""
        line = Line()
        connection = MeetingConnection(self.hub, line, "01J", "10.0.0.1", "c")
        if user_id is not None:
            connection.session.principal = Principal(user_id, "user", 0, 1)
        self.hub.turn_away(connection, CloseCode.TOO_MANY_CONNECTIONS)
        return connection, line


@pytest.fixture
async def door() -> Door:
    return Door()


async def test_a11_who_keeps_crowding_hears_it_later_and_others_at_once(door: Door) -> None:
    assert [door.turn_away(1)[1].closed for _ in range(2)] == [[4006], []]
    assert door.turn_away(2)[1].closed == [4006]
    assert door.turn_away(None)[1].closed == [4006]
    assert door.hub.departed == 4  # 座位与房间当时就让出，不等关闭帧
    assert door.hub.counters.closes == {4006: 4}


async def test_nobody_listens_to_who_waits(door: Door) -> None:
    door.turn_away(1)
    connection, _ = door.turn_away(1)
    connection.receive(b'{"type":"segment"}')
    connection.receive_binary()
    assert door.hub.commands == []


async def test_a_shutdown_does_not_wait_for_it(door: Door) -> None:
    door.turn_away(1)
    connection, line = door.turn_away(1)
    for _ in range(2):
        connection.part(CloseCode.SERVER_DRAINING)
    assert line.closed == [4000]


async def test_who_left_while_waiting_is_told_nothing(door: Door) -> None:
    door.turn_away(1)
    connection, line = door.turn_away(1)
    connection.lost()
    connection.part(CloseCode.SERVER_DRAINING)
    await asyncio.sleep(0)
    assert line.closed == []
