"""一条新连接要的一切：一次往返，一个人的键坏了不连累同一圈里的别人。"""

from __future__ import annotations

import asyncio

import pytest

from meeting_push.contracts import Newcomer, Quiet, Unfinished
from meeting_push.errors import RedisCommandError
from meeting_push.mailbox_model import ResumePoint
from meeting_push.node_identity import NodeIdentity
from meeting_push.redis.arrivals import Arrivals, Arrived
from meeting_push.redis.broadcast_log import BroadcastLog
from meeting_push.redis.claims import GenerationMark
from meeting_push.redis.mailboxes import Mailboxes, MailboxLimits
from meeting_push.redis.presence import SeatRules, SeatStore
from meeting_push.redis.redis_service import RedisService
from meeting_push.supervision import Aside

NOW = 1_800_000_000_000
DAY_MS = 86_400_000
NEWEST = NOW - 5
LIMITS = MailboxLimits(1_000, 1_000, 7 * DAY_MS, 37 * DAY_MS)


def log_of(redis: RedisService) -> BroadcastLog:
    return BroadcastLog(
        redis.lean, redis.keys, log_ttl_ms=DAY_MS, cursor_ttl_ms=2 * DAY_MS, aside=Aside("log")
    )


def arrivals(redis: RedisService, log: BroadcastLog | None = None, limit: int = 2) -> Arrivals:
    rules = SeatRules(limit, "reject", DAY_MS)
    seats = SeatStore(redis.lean, redis.keys, NodeIdentity("node-a"), rules)
    mailboxes = Mailboxes(redis.lean, redis.keys, LIMITS)
    return Arrivals(redis.lean, redis.keys, seats, mailboxes, log or log_of(redis))


def newcomer(user_id: int, connection_id: str = "a") -> Newcomer:
    return Newcomer(user_id, connection_id, "phone", None)


async def test_one_round_trip_gives_seat_mailbox_and_cursor(redis: RedisService) -> None:
    door = arrivals(redis)
    await door.open(newcomer(1), NEWEST)  # 脚本从此在 Redis 里
    before = redis.lean.commands
    arrived = await door.open(newcomer(7), NEWEST)
    assert arrived is not None
    assert redis.lean.commands == before + 1
    assert arrived.seat.endswith(b":node-a:phone")
    assert arrived.mailbox == await Mailboxes(redis.lean, redis.keys, LIMITS).open(7, None)


async def test_who_finds_no_seat_leaves_nothing_behind(redis: RedisService) -> None:
    door = arrivals(redis, limit=1)
    await redis.lean.execute("HSET", redis.keys.user_slots(7), "other", "1:node-a:laptop")
    assert await door.open(newcomer(7), NEWEST) is None
    assert await redis.lean.execute("HKEYS", redis.keys.user_slots(7)) == [b"other"]
    left = (redis.keys.user_seq(7), redis.keys.broadcast_cursor(7))
    assert await redis.lean.execute("EXISTS", *left) == 0


async def test_a_seat_of_a_dead_node_makes_room(redis: RedisService) -> None:
    door = arrivals(redis, limit=1)
    await redis.lean.execute("HSET", redis.keys.user_slots(7), "other", "1:node-b:laptop")
    assert await door.open(newcomer(7), NEWEST) is not None
    assert await redis.lean.execute("HKEYS", redis.keys.user_slots(7)) == [b"a"]


async def test_one_spoiled_user_does_not_fail_his_neighbours_of_the_tick(
    redis: RedisService,
) -> None:
    door = arrivals(redis)
    await redis.lean.execute("SET", redis.keys.user_slots(2), "spoiled")
    await redis.lean.execute("SET", redis.keys.mailbox(3), "spoiled")
    found = await asyncio.gather(
        *(door.open(newcomer(user_id), NEWEST) for user_id in (1, 2, 3, 4)),
        return_exceptions=True,
    )
    assert [type(one) for one in found] == [
        *(Arrived, RedisCommandError, RedisCommandError, Arrived)
    ]


async def position(door: Arrivals, log: BroadcastLog, user_id: int) -> int:
    arrived = await door.open(newcomer(user_id), NEWEST)
    assert arrived is not None
    return (await log.position(user_id, NEWEST, NOW, arrived.cursor))[0]


async def test_a_new_user_has_no_backlog_of_broadcasts(redis: RedisService) -> None:
    log = log_of(redis)
    door = arrivals(redis, log)
    await GenerationMark(redis.lean, redis.keys).begin(1, NOW, lost=False)
    assert [await position(door, log, user_id) for user_id in (1, 2, 2)] == [NEWEST] * 3


@pytest.mark.parametrize("flushed", [True, False])
async def test_after_a_loss_of_data_nobody_is_taken_for_a_new_user(
    redis: RedisService, flushed: bool
) -> None:
    """刚刚还问过，说没有丢：定下起点之后再问一遍，多给，不漏。"""
    log, mark = log_of(redis), GenerationMark(redis.lean, redis.keys)
    door = arrivals(redis, log)
    await mark.begin(1, NOW, lost=False)
    assert await position(door, log, 1) == NEWEST
    if flushed:
        await redis.lean.execute("DEL", redis.keys.delivery_generation)
    else:
        await mark.begin(2, NOW, lost=True)
    assert await position(door, log, 2) == 0
    assert await position(door, log, 2) == 0
    assert await position(door, log, 3) == 0


async def test_those_who_arrive_in_one_tick_ask_once_whether_data_was_lost(
    redis: RedisService,
) -> None:
    log = log_of(redis)
    door = arrivals(redis, log)
    await GenerationMark(redis.lean, redis.keys).begin(1, NOW, lost=False)
    await position(door, log, 1)
    before = redis.lean.commands
    await asyncio.gather(*(position(door, log, user_id) for user_id in range(2, 12)))
    assert redis.lean.commands <= before + 10 + 2


async def begun(door: Arrivals, who: Newcomer) -> Quiet | Unfinished:
    answered: asyncio.Future[Quiet | Unfinished] = asyncio.get_running_loop().create_future()
    door.begin(who, NEWEST, answered.set_result)
    return await asyncio.wait_for(answered, 10)


async def test_who_has_nothing_waiting_is_told_so_in_one_answer(redis: RedisService) -> None:
    log = log_of(redis)
    door = arrivals(redis, log)
    await GenerationMark(redis.lean, redis.keys).begin(1, NOW, lost=False)
    await position(door, log, 1)  # 从此知道没有丢过数据
    quiet = await begun(door, newcomer(7))
    assert isinstance(quiet, Quiet)
    assert quiet.seat.endswith(b":node-a:phone")
    assert (quiet.seq, quiet.resumed, quiet.newest) == (0, False, NEWEST)
    back = Newcomer(7, "b", "laptop", ResumePoint(quiet.epoch, 0))
    again = await begun(door, back)
    assert isinstance(again, Quiet)
    assert again.resumed


async def test_who_has_a_message_waiting_is_not_quiet(redis: RedisService) -> None:
    log = log_of(redis)
    door = arrivals(redis, log)
    await GenerationMark(redis.lean, redis.keys).begin(1, NOW, lost=False)
    await position(door, log, 7)
    await redis.lean.execute("ZADD", redis.keys.mailbox(7), 1, "01J")
    unfinished = await begun(door, newcomer(7))
    assert isinstance(unfinished, Unfinished)
    arrived = await door.open(newcomer(7), NEWEST, unfinished.answer)
    assert arrived is not None
    assert arrived.mailbox.mailbox == [("01J", 1)]


async def test_nobody_is_quiet_on_the_word_of_a_mark_that_was_lost(redis: RedisService) -> None:
    log = log_of(redis)
    door = arrivals(redis, log)
    await GenerationMark(redis.lean, redis.keys).begin(1, NOW, lost=False)
    await position(door, log, 1)
    await redis.lean.execute("DEL", redis.keys.delivery_generation)
    unfinished = await begun(door, newcomer(7))
    assert isinstance(unfinished, Unfinished)
    arrived = await door.open(newcomer(7), NEWEST, unfinished.answer)
    assert arrived is not None
    assert (await log.position(7, NEWEST, NOW, arrived.cursor))[0] == 0


async def test_a_spoiled_user_is_unfinished_and_has_no_answer(redis: RedisService) -> None:
    await redis.lean.execute("SET", redis.keys.user_slots(7), "spoiled")
    assert await begun(arrivals(redis), newcomer(7)) == Unfinished(None)
