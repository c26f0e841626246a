"""``MeetingBus``：到场与离开，恰好一次，死了的会到期。"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from meeting_push.meeting.frames import Join, Leave, decode_bus_frame
from meeting_push.redis.dial import RedisAddress
from meeting_push.redis.keys import Keys
from meeting_push.redis.meeting_bus import MeetingBus, Space, member_of
from tests.support.redis_server import RedisServer

MEETING = "M" * 26
ANN, BEN = member_of(1, "a1", "安:\n\"'"), member_of(2, "b1", "Ben")


class Listener:
    """订阅着的一个节点。"""

    def __init__(self, bus: MeetingBus) -> None:
        self.bus = bus
        self.heard: asyncio.Queue[tuple[str, int | str, str]] = asyncio.Queue()

    def on_message(self, channel: bytes, payload: bytes) -> None:
        assert channel == self.bus.channel(MEETING)
        frame = decode_bus_frame(payload)
        assert isinstance(frame, (Join, Leave))
        assert frame.online is isinstance(frame, Join)
        self.heard.put_nowait((type(frame).__name__.lower(), frame.user_id, frame.name))

    async def next(self) -> tuple[str, int | str, str]:
        return await asyncio.wait_for(self.heard.get(), 5)


@pytest.fixture
async def listener(redis_server: RedisServer, key_prefix: str) -> AsyncIterator[Listener]:
    bus = MeetingBus(RedisAddress.parse(redis_server.url), Keys(key_prefix), ttl_ms=300)
    one = Listener(bus)
    await bus.start(one.on_message, lambda: None)
    await bus.subscribe(MEETING)
    yield one
    await bus.close()


async def test_the_first_connection_joins_and_the_last_leaves(listener: Listener) -> None:
    bus, second = listener.bus, member_of(1, "a2", "安")
    assert await bus.enter(MEETING, ANN, Space(9, 9)) == {1: "安:\n\"'"}
    await bus.enter(MEETING, second, Space(9, 9))
    await bus.enter(MEETING, ANN, Space(9, 9))
    await bus.leave(MEETING, ANN)
    await bus.leave(MEETING, second)
    await bus.leave(MEETING, second)
    await bus.enter(MEETING, BEN, Space(9, 9))
    heard = [await listener.next() for _ in range(3)]
    assert [(kind, user) for kind, user, _ in heard] == [("join", 1), ("leave", 1), ("join", 2)]


async def test_a_full_meeting_takes_no_more(listener: Listener) -> None:
    assert await listener.bus.enter(MEETING, ANN, Space(1, 1)) is not None
    assert await listener.bus.enter(MEETING, BEN, Space(1, 1)) is None
    assert await listener.bus.enter(MEETING, ANN, Space(1, 1)) == {1: "安:\n\"'"}


async def test_a11_nobody_takes_more_than_his_share(listener: Listener) -> None:
    """A11：一个人的份额满了，别人照样进得来；没有份额之外的。"""
    space = Space(4, 2)
    assert await listener.bus.enter(MEETING, ANN, space) is not None
    assert await listener.bus.enter(MEETING, member_of(1, "a2", "安"), space) is not None
    assert await listener.bus.enter(MEETING, member_of(1, "a3", "安"), space) is None
    assert await listener.bus.enter(MEETING, member_of(11, "c1", "丙"), space) is not None


async def test_a11_the_organizer_gets_into_a_full_meeting(listener: Listener) -> None:
    """A11：参与者多于连接数时，满了也给召开者第一条，只有第一条。"""
    assert await listener.bus.enter(MEETING, ANN, Space(1, 1)) is not None
    assert await listener.bus.enter(MEETING, BEN, Space(1, 1)) is None
    assert await listener.bus.enter(MEETING, BEN, Space(1, 9, always=True)) is not None
    second = member_of(2, "b2", "Ben")
    assert await listener.bus.enter(MEETING, second, Space(1, 9, always=True)) is None


async def test_who_is_not_refreshed_leaves(listener: Listener) -> None:
    bus = listener.bus
    await bus.enter(MEETING, ANN, Space(9, 9))
    await bus.enter(MEETING, BEN, Space(9, 9))
    online: set[int | str] = {1, 2}
    async with asyncio.timeout(5):
        while online != {1}:
            online = set(await bus.refresh(MEETING, [ANN]))
            await asyncio.sleep(0.05)  # Redis 的时钟在走：时间本身就是被测的东西
    heard = [await listener.next() for _ in range(3)]
    assert [(kind, user) for kind, user, _ in heard] == [("join", 1), ("join", 2), ("leave", 2)]


async def test_two_nodes_sweeping_at_once_tell_of_a_leave_once(
    listener: Listener, redis_server: RedisServer, key_prefix: str
) -> None:
    other = MeetingBus(RedisAddress.parse(redis_server.url), Keys(key_prefix), ttl_ms=300)
    await other.start(lambda channel, payload: None, lambda: None)
    await listener.bus.enter(MEETING, BEN, Space(9, 9))
    await asyncio.sleep(0.35)  # 到期
    await asyncio.gather(*(bus.refresh(MEETING, []) for bus in (listener.bus, other) * 5))
    await listener.bus.enter(MEETING, ANN, Space(9, 9))
    await other.close()
    heard = [await listener.next() for _ in range(3)]
    assert [(kind, user) for kind, user, _ in heard] == [("join", 2), ("leave", 2), ("join", 1)]


@pytest.mark.parametrize("person", ["ann@example.org", "a:b:c", "5f", "~"])
async def test_somebody_whose_id_is_a_string_joins_and_leaves(
    listener: Listener, person: str
) -> None:
    member = member_of(person, "c", "Ann: the first")
    assert await listener.bus.enter(MEETING, member, Space(9, 9)) == {person: "Ann: the first"}
    assert await listener.bus.enter(MEETING, member_of(person, "d", "Ann"), Space(9, 1)) is None
    await listener.bus.leave(MEETING, member)
    heard = [await listener.next() for _ in range(2)]
    assert heard == [("join", person, "Ann: the first"), ("leave", person, "Ann: the first")]
