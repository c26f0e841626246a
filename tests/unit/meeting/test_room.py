"""``Room``：乱序、漏、重复、结束；不经网络。"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meeting_push.meeting.connection import MeetingConnection, MeetingCounters
from meeting_push.meeting.frames import Ended, SegmentFrame, decode_bus_frame
from meeting_push.meeting.room import MAX_AHEAD, Room
from meeting_push.meeting_model import MeetingPosition, Segment
from meeting_push.protocol.envelope import FrameRun
from meeting_push.protocol.frames import encode
from tests.support.limits import meeting_limits_with

LIMITS = meeting_limits_with()


class Wire:
    """驱动：记下写出的与关闭码。"""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.code: int | None = None

    def write_run(self, run: FrameRun) -> None:
        for frame, _ in run.frames:
            self.write(frame)

    def write(self, frame: bytes) -> None:
        self.written.append(frame)

    def close(self, code: int, reason: str) -> None:
        self.code = code

    def abort(self) -> None:
        raise AssertionError("nothing here is aborted")

    def outcome(self) -> tuple[int, int | None]:
        """(写出几帧, 关闭码)。"""
        return len(self.written), self.code

    @property
    def seqs(self) -> list[int | None]:
        frames = [decode_bus_frame(text) for text in self.written]
        return [frame.seq for frame in frames if isinstance(frame, SegmentFrame)]


class Host:
    def __init__(self) -> None:
        self.limits = LIMITS
        self.counters = MeetingCounters()
        self.clock: Callable[[], int] = lambda: 0

    def on_command(self, connection: object, command: object) -> None: ...

    def expel(self, connection: object, code: object) -> None: ...

    def on_blocked(self, connection: object) -> None: ...

    def on_closing(self, connection: object) -> None: ...

    def on_lost(self, connection: object) -> None: ...


class World:
    def __init__(self) -> None:
        self.behind: list[int] = []
        self.host = Host()
        self.room = Room("m", lambda: 0, lambda room: self.behind.append(room.seq))

    def listener(self, seq: int = 0, *, live: bool = True) -> Wire:
        wire = Wire()
        connection = MeetingConnection(self.host, wire, "m", "", "c")
        connection.session.seq = seq
        connection.live = connection.welcomed = live
        self.room.add(connection)
        return wire

    def publish(self, *seqs: int | None) -> None:
        for seq in seqs:
            payload = segment(seq)
            self.room.take(decode_bus_frame(payload), payload)

    def reread(self, seqs: Sequence[int]) -> None:
        for seq in seqs:
            self.room.advance(seq, segment(seq))


def segment(seq: int | None) -> bytes:
    return encode(
        SegmentFrame(
            seq=seq,
            interim=seq is None,
            speaker="s",
            text=f"{seq}",
            start_ms=0,
            end_ms=1,
            sender_id=1,
            timestamp=1,
        )
    )


@pytest.fixture
def world() -> World:
    world = World()
    world.room.start(MeetingPosition(0, None))
    return world


def test_what_comes_out_of_order_goes_out_in_order(world: World) -> None:
    wire = world.listener()
    world.publish(2, 3, 1, 4)
    assert wire.seqs == [1, 2, 3, 4]


def test_a_duplicate_goes_out_once(world: World) -> None:
    wire = world.listener()
    world.publish(1, 1, 2, 1)
    assert wire.seqs == [1, 2]


def test_a_hole_is_asked_for_and_filled(world: World) -> None:
    wire = world.listener()
    world.publish(1, 4)
    assert (wire.seqs, world.behind) == ([1], [1])
    world.reread([2, 3, 4])
    assert wire.seqs == [1, 2, 3, 4]
    assert not world.room.behind


def test_far_ahead_is_bounded_and_read_again(world: World) -> None:
    wire = world.listener()
    count = MAX_AHEAD + 50
    world.publish(*range(2, count + 1), 1)
    assert world.room.behind
    world.reread(range(world.room.seq + 1, count + 1))
    assert wire.seqs == list(range(1, count + 1))


def test_what_comes_while_opening_waits_for_the_start() -> None:
    world = World()
    wire = world.listener(seq=2)
    world.publish(2, 3, 4)
    assert wire.seqs == []
    world.room.start(MeetingPosition(3, None))
    assert wire.seqs == [4]


def test_the_record_tells_of_a_lost_last_segment(world: World) -> None:
    world.publish(1)
    world.room.reconcile(MeetingPosition(2, None))
    assert world.behind == [1]


def test_one_that_is_still_catching_up_gets_nothing_live(world: World) -> None:
    wire = world.listener(live=False)
    world.publish(1, None)
    assert wire.written == []


def test_what_history_gave_is_not_given_again(world: World) -> None:
    wire = world.listener(seq=2)
    world.publish(1, 2, 3)
    assert wire.seqs == [3]


def test_an_interim_goes_out_at_once(world: World) -> None:
    wire = world.listener()
    world.publish(None)
    assert wire.seqs == [None]


def test_the_end_waits_for_the_last_segment(world: World) -> None:
    wire = world.listener()
    farewell = encode(Ended(seq=2, ended_at=9))
    world.publish(1)
    world.room.take(decode_bus_frame(farewell), farewell)
    assert wire.outcome() == (1, None)
    world.publish(2)
    assert wire.seqs == [1, 2]
    assert wire.written[-1] == farewell
    assert wire.outcome() == (3, 1000)


def test_the_end_lets_a_slow_reader_finish(world: World) -> None:
    wire = world.listener()
    [connection] = world.room.connections
    connection.blocked()
    world.publish(1)
    world.room.reconcile(MeetingPosition(1, 9))
    assert wire.outcome() == (0, None)
    connection.unblocked()
    assert wire.outcome() == (2, 1000)


@given(st.lists(st.integers(1, 12), max_size=40), st.integers(0, 12))
def test_dlv_5_any_order_of_arrivals_is_a_prefix_in_order(arrivals: list[int], start: int) -> None:
    world = World()
    world.room.start(MeetingPosition(start, None))
    wire = world.listener(seq=start)
    world.publish(*arrivals)
    expected = start
    while expected + 1 in arrivals:
        expected += 1
    assert wire.seqs == list(range(start + 1, expected + 1))
    assert world.room.behind == any(seq > expected for seq in arrivals)


def test_replayed_segments_are_what_is_published() -> None:
    stored = Segment(1, 1, "s", "1", 0, 1, 1)
    assert encode(SegmentFrame.of(stored, {1: 1})) == segment(1)
