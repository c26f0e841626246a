"""广播分段写出：一段写完让别人先走，先来的广播先发完。"""

from __future__ import annotations

import asyncio
from typing import cast

from websockets.client import ClientProtocol
from websockets.frames import Frame
from websockets.protocol import State
from websockets.uri import parse_uri

from meeting_push.protocol.envelope import FrameRun, PushKey
from meeting_push.websocket.line import UserConnection
from meeting_push.websocket.lines import FANOUT_CHUNK, LAP_BYTES, Fanout


class Recorder:
    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.writes = 0

    def offer(self, frame: bytes, key: PushKey, now: int) -> None:
        assert key is None
        self.frames.append(frame)
        self.writes += 1

    def offer_run(self, run: FrameRun, now: int) -> None:
        self.frames += [frame for frame, _ in run.frames]
        self.writes += 1


def crowd(size: int) -> list[Recorder]:
    return [Recorder() for _ in range(size)]


def fanout_to(recorders: list[Recorder]) -> Fanout:
    return Fanout(cast("list[UserConnection]", recorders), lambda: 0)


async def rounds(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_small_house_is_served_at_once() -> None:
    recorders = crowd(3)
    fanout_to(recorders).spread(b"a")
    assert [each.frames for each in recorders] == [[b"a"]] * 3


async def test_others_get_their_turn_between_the_chunks() -> None:
    recorders = crowd(FANOUT_CHUNK + 1)
    fanout_to(recorders).spread(b"a")
    assert recorders[FANOUT_CHUNK - 1].frames == [b"a"]
    assert recorders[FANOUT_CHUNK].frames == []
    await rounds(1)
    assert recorders[FANOUT_CHUNK].frames == [b"a"]


async def test_broadcasts_keep_their_order() -> None:
    recorders = crowd(FANOUT_CHUNK * 2 + 1)
    fanout = fanout_to(recorders)
    fanout.spread(b"a")
    fanout.spread(b"b")
    await rounds(10)
    assert [each.frames for each in recorders] == [[b"a", b"b"]] * len(recorders)


async def test_a_connection_that_breaks_does_not_stop_the_lap() -> None:
    class Broken(Recorder):
        def offer(self, frame: bytes, key: PushKey, now: int) -> None:
            raise AssertionError("a bug")

    recorders = [Recorder(), Broken(), Recorder()]
    fanout = fanout_to(recorders)
    fanout.spread(b"a")
    fanout.spread(b"b")
    await rounds(10)
    assert [each.frames for each in recorders] == [[b"a", b"b"], [], [b"a", b"b"]]


async def test_broadcasts_that_had_to_wait_are_written_together() -> None:
    recorders = crowd(FANOUT_CHUNK + 1)
    fanout = fanout_to(recorders)
    for frame in (b"a", b"b", b"c", b"d"):
        fanout.spread(frame)
    await rounds(10)
    assert [(each.frames, each.writes) for each in recorders] == [
        ([b"a", b"b", b"c", b"d"], 2)
    ] * len(recorders)


async def test_one_lap_carries_a_bounded_number_of_bytes() -> None:
    recorders = crowd(FANOUT_CHUNK + 1)
    fanout = fanout_to(recorders)
    big = bytes(LAP_BYTES)
    for frame in (b"a", big, big, b"b"):
        fanout.spread(frame)
    await rounds(20)
    assert [(each.frames, each.writes) for each in recorders] == [([b"a", big, big, b"b"], 4)] * (
        FANOUT_CHUNK + 1
    )


def test_a_run_is_the_frames_one_after_the_other() -> None:
    frames = [b"a" * size for size in (1, 125, 126, 70_000)]
    run = FrameRun.of([(frame, None) for frame in frames])
    client = ClientProtocol(parse_uri("ws://localhost/"), state=State.OPEN)
    client.receive_data(run.wire)
    events = [event for event in client.events_received() if isinstance(event, Frame)]
    assert [bytes(event.data) for event in events] == frames
    assert run.size == sum(map(len, frames))
