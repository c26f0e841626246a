"""上线、下线了的人：每个转变告诉恰好一个进程，它写进出门的队列。"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from meeting_push import MeetingPush, PushEvent, load_settings
from meeting_push.presence.online_events import OnlineEvents
from meeting_push.presence.online_status_service import OnlineStatusService
from meeting_push.redis.presence import Turn
from meeting_push.redis.redis_service import RedisService
from meeting_push.storage.database import Database
from meeting_push.storage.event_queue import EventQueueRepository
from tests.support.redis_server import RedisServer
from tests.unit.presence.nodes import crash, info, node

USER = 7


class Heard:
    """一个节点得知的转变。"""

    def __init__(self, one: OnlineStatusService) -> None:
        self.turns: list[Turn] = []
        one._turned = one.reaper._turned = self.turns.extend


async def opened(one: OnlineStatusService, connection_id: str) -> None:
    one.ledger.connection_opened(USER, info(connection_id))
    await one.flush()


async def closed(one: OnlineStatusService, connection_id: str) -> None:
    one.ledger.connection_closed(USER, connection_id)
    await one.flush()


async def test_only_the_first_device_and_the_last_are_a_turn(redis: RedisService) -> None:
    here, there = await node(redis), await node(redis)
    heard, also = Heard(here), Heard(there)
    await opened(here, "a")
    await opened(there, "b")
    await closed(here, "a")
    assert (heard.turns, also.turns) == ([Turn(USER, True)], [])
    await closed(there, "b")
    assert (heard.turns, also.turns) == ([Turn(USER, True)], [Turn(USER, False)])


async def test_writing_the_same_again_is_no_turn(redis: RedisService) -> None:
    here = await node(redis)
    await opened(here, "a")
    heard = Heard(here)
    here.resync()
    await here.flush()
    assert heard.turns == []


async def test_whoever_reaps_a_dead_node_hears_who_went_offline(redis: RedisService) -> None:
    dead, other = await node(redis), await node(redis)
    await opened(dead, "a")
    heard = Heard(other)
    await crash(redis, dead)
    await other.reaper.sweep()
    await other.reaper.sweep()
    assert heard.turns == [Turn(USER, False)]


async def test_what_nobody_wants_is_not_kept(database: Database) -> None:
    events = OnlineEvents(database)
    events.note([Turn(USER, True)])
    await events.write()
    assert database.events.rows == 0


async def test_turns_leave_in_the_order_they_came(database: Database) -> None:
    database.events.subscribe("r", ["user.online", "user.offline"], lambda: None)
    events = OnlineEvents(database, clock=lambda: 5)
    events.note([Turn(1, True), Turn(2, True), Turn(1, False), Turn(1, True)])
    await events.write()
    queue = EventQueueRepository(database)
    rows = await queue.load(await queue.due("r", 10, 10))
    assert [(row.kind, row.items) for row in rows] == [
        ("user.online", "[[1,5],[2,5]]"),
        ("user.offline", "[[1,5]]"),
        ("user.online", "[[1,5]]"),
    ]


@pytest.mark.timeout(90)
async def test_a_handler_hears_who_came_and_who_left(
    tmp_path: Path, embedded_redis_server: RedisServer, key_prefix: str
) -> None:
    told = asyncio.Queue[PushEvent]()

    async def hear(event: PushEvent) -> None:
        await told.put(event)

    push = MeetingPush(
        load_settings(data_dir=tmp_path, redis_url=embedded_redis_server.url, key_prefix=key_prefix)
    )
    push.on("user.online", hear)
    push.on("user.offline", hear)
    await push.start()
    try:
        async with asyncio.timeout(60):
            await push.presence.set_user_online(USER, info("a"))
            came = await told.get()
            await push.presence.set_user_offline(USER, "a")
            left = await told.get()
    finally:
        await push.drain()
        await push.stop()
    assert [(one.type, one.data["user_id"]) for one in (came, left)] == [
        ("user.online", USER),
        ("user.offline", USER),
    ]
