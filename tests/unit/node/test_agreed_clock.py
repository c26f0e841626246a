"""E4：钟错了的节点什么收不回来的也不做，别的照大家的钟走。"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from meeting_push.accept.idempotency import IdempotencyPurge
from meeting_push.app import MeetingPush
from meeting_push.clock import now_ms
from meeting_push.errors import UnavailableError
from meeting_push.model import Sender
from meeting_push.node.agreed_clock import CLOSE_MS, AgreedClock, ClockDisagreesError
from meeting_push.redis.dial import RedisAddress
from meeting_push.redis.redis_service import RedisService
from meeting_push.storage.database import Database
from meeting_push.storage.idempotency import IdempotencyRepository
from tests.support.eventually import eventually
from tests.support.node import node
from tests.support.parts import Parts
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer

HOUR_MS = 3_600_000
HOURS = [HOUR_MS, -HOUR_MS]


class Wall:
    """拨得动的墙上的钟。"""

    ahead = 0

    def __call__(self) -> int:
        return now_ms() + self.ahead


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
def clock(parts: Parts, wall: Wall) -> AgreedClock:
    return AgreedClock(parts.redis, parts.database, wall)


def near(one: int, other: int) -> bool:
    return abs(one - other) < CLOSE_MS


async def test_a_clock_that_agrees_is_our_own(clock: AgreedClock) -> None:
    assert near(await clock.agreed(), now_ms())
    assert near(clock(), now_ms())
    assert near(clock.skew_ms, 0)


@pytest.mark.parametrize("ahead", HOURS)
async def test_e4_nothing_irrevocable_by_a_clock_that_disagrees(
    clock: AgreedClock, wall: Wall, ahead: int
) -> None:
    wall.ahead = ahead
    with pytest.raises(ClockDisagreesError):
        await clock.agreed()
    assert near(clock.skew_ms, ahead)


async def test_e4_a_clock_that_jumps_is_not_followed(clock: AgreedClock, wall: Wall) -> None:
    await clock.check()
    wall.ahead = HOUR_MS
    assert near(clock(), now_ms())
    await clock.check()
    assert near(clock(), now_ms())


async def test_e4_a_node_that_starts_an_hour_ahead_goes_by_the_others(
    parts: Parts, wall: Wall
) -> None:
    wall.ahead = HOUR_MS
    clock = AgreedClock(parts.redis, parts.database, wall)
    assert near(clock(), now_ms() + HOUR_MS)  # 还没问过
    await clock.check()
    assert near(clock(), now_ms())


async def test_e4_it_agrees_again_after_the_clock_is_set_right(
    clock: AgreedClock, wall: Wall
) -> None:
    wall.ahead = HOUR_MS
    await clock.check()
    wall.ahead = 0
    assert near(await clock.agreed(), now_ms())


async def test_e4_an_hour_ahead_expires_nothing(parts: Parts, clock: AgreedClock) -> None:
    """清理、死信、轮次：什么也没有动。"""
    message_id = await parts.deliver(ttl_ms=60_000)
    clock._wall = lambda: now_ms() + HOUR_MS
    parts.expiry._agreed = clock.agreed
    with pytest.raises(UnavailableError):
        await parts.expiry._round()
    assert await parts.status(message_id) == ("pending", None)
    assert await parts.held() == [message_id]
    assert not await parts.redis.lean.execute("EXISTS", parts.redis.keys.expiry_turn)


async def test_e4_what_has_really_expired_is_recorded(parts: Parts, clock: AgreedClock) -> None:
    message_id = await parts.deliver(ttl_ms=-60_000)
    parts.expiry._agreed = clock.agreed
    assert await parts.expiry.sweep() == 1
    assert await parts.status(message_id) == ("expired", None)


@pytest.fixture
async def ahead(
    private_redis_server: RedisServer,
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[MeetingPush]:
    """一个快一小时的节点，什么都做。"""
    monkeypatch.setattr("meeting_push.clock.time.time_ns", lambda: (_real_ms() + HOUR_MS) * 10**6)
    async with node(private_redis_server.url, database_url, tmp_path) as push:
        yield push


def _real_ms() -> int:
    return int(time.time() * 1000)


async def test_e4_a_node_an_hour_ahead_delivers_and_expires_nothing(ahead: MeetingPush) -> None:
    """接受、入队、取出、重试、到期：都照大家的钟。"""
    accepted = await ahead.messages.send_message(Sender(1, "a"), 2, "t", "c", expires_in_s=600)

    async def there() -> bool:
        return await ahead.mailbox.get_offline_message_count(2) == 1

    await eventually(there)
    assert near(accepted.created_at, _real_ms())
    counts, _ = await ahead.confirmation.get_message_delivery_status(accepted.message_id)
    assert (counts.pending, counts.expired) == (1, 0)


async def test_e4_a_revocation_by_a_fast_clock_spares_the_next_hours_tokens(
    ahead: MeetingPush,
) -> None:
    await ahead.revocations.revoke_user(2, reason="test")
    assert near(ahead.revocations.known._users[2], _real_ms())


async def test_redis_alone_is_asked_when_the_record_is_sqlite(
    sqlite_url: str,
) -> None:
    database = Database(sqlite_url)
    assert await database.time_ms() is None
    await database.dispose()


async def test_nobody_to_ask_changes_nothing(parts: Parts, wall: Wall) -> None:
    away = RedisService(RedisAddress(host="127.0.0.1", port=free_port()), parts.redis.keys)
    clock = AgreedClock(away, parts.database, wall)
    if parts.database.is_sqlite:
        with pytest.raises(UnavailableError):
            await clock.check()
    else:
        await clock.check()
    assert near(clock(), now_ms())


async def test_e4_an_hour_ahead_forgets_no_idempotency_key(
    parts: Parts, clock: AgreedClock
) -> None:
    clock._wall = lambda: now_ms() + HOUR_MS
    purge = IdempotencyPurge(IdempotencyRepository(parts.database), clock.agreed)
    with pytest.raises(ClockDisagreesError):
        await purge.purge()
