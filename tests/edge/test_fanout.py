"""广播分段写出：一段写完让别人先走，先来的广播先发完。"""

from __future__ import annotations

import asyncio
from typing import cast

from meeting_push.protocol.envelope import FrameKey
from meeting_push.websocket.connection import UserConnection
from meeting_push.websocket.fanout import CHUNK, Fanout


class Recorder:
    def __init__(self) -> None:
        self.frames: list[bytes] = []

    def offer(self, frame: bytes, key: FrameKey | None, now: int) -> None:
        assert key is None
        self.frames.append(frame)


def crowd(size: int) -> list[Recorder]:
    return [Recorder() for _ in range(size)]


def spread(fanout: Fanout, frame: bytes, recorders: list[Recorder]) -> None:
    fanout.spread(frame, iter(cast("list[UserConnection]", recorders)))


async def test_a_small_house_is_served_at_once() -> None:
    recorders = crowd(3)
    spread(Fanout(lambda: 0), b"a", recorders)
    assert [each.frames for each in recorders] == [[b"a"]] * 3


async def test_others_get_their_turn_between_the_chunks() -> None:
    recorders = crowd(CHUNK + 1)
    spread(Fanout(lambda: 0), b"a", recorders)
    assert recorders[CHUNK - 1].frames == [b"a"]
    assert recorders[CHUNK].frames == []
    await asyncio.sleep(0)
    assert recorders[CHUNK].frames == [b"a"]


async def test_broadcasts_keep_their_order() -> None:
    fanout = Fanout(lambda: 0)
    recorders = crowd(CHUNK * 2 + 1)
    spread(fanout, b"a", recorders)
    spread(fanout, b"b", recorders)
    for _ in range(10):
        await asyncio.sleep(0)
    assert [each.frames for each in recorders] == [[b"a", b"b"]] * len(recorders)
