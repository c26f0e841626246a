"""用户活跃度：来过的人数一次，各窗口按各自的长；发了、收到的按小时。"""

from __future__ import annotations

import pytest

from meeting_push.errors import RedisUnavailableError
from meeting_push.monitoring.slot_counts import Activity
from meeting_push.redis.redis_service import RedisService
from meeting_push.redis.time_slots import DAY_MS, HOUR_MS, MINUTE_MS, ActivityStore

NOON = 20_000 * DAY_MS + 12 * HOUR_MS


class House:
    """一个进程：来过的人、连着的人、发了收了多少，由测试说。"""

    def __init__(self, redis: RedisService) -> None:
        self.now = NOON
        self.came: set[int] = set()
        self.online: list[int] = []
        self.sent = self.received = 0
        self.activity = Activity(
            ActivityStore(redis.lean, redis.keys),
            came=self._take,
            online=lambda: self.online,
            sent=lambda: self.sent,
            received=lambda: self.received,
            clock=lambda: self.now,
        )

    def _take(self) -> set[int]:
        came, self.came = self.came, set()
        return came

    async def active(self) -> dict[str, int]:
        return (await self.activity.read())[0]


async def test_who_came_counts_once_in_every_window(redis: RedisService) -> None:
    house = House(redis)
    for _ in range(2):
        house.came = {1, 2, 3}
        await house.activity.step()
    assert await house.active() == dict.fromkeys(("5m", "1h", "1d", "7d", "30d"), 3)


@pytest.mark.parametrize(
    ("later_ms", "still"),
    [
        (7 * MINUTE_MS, {"1h", "1d", "7d", "30d"}),
        (2 * HOUR_MS, {"1d", "7d", "30d"}),
        (2 * DAY_MS, {"7d", "30d"}),
        (9 * DAY_MS, {"30d"}),
        (32 * DAY_MS, set()),
    ],
)
async def test_a_window_forgets_who_came_before_it(
    redis: RedisService, later_ms: int, still: set[str]
) -> None:
    house = House(redis)
    house.came = {1}
    await house.activity.step()
    house.now += later_ms
    assert {name for name, count in (await house.active()).items() if count} == still


async def test_who_stays_is_still_active(redis: RedisService) -> None:
    house = House(redis)
    house.came, house.online = {1}, [1]
    for _ in range(20):
        await house.activity.step()
        house.now += MINUTE_MS
    assert (await house.active())["5m"] == 1


async def test_what_was_sent_is_told_by_the_hour(redis: RedisService) -> None:
    house = House(redis)
    house.sent, house.received = 5, 3
    await house.activity.step()
    house.now += HOUR_MS
    house.sent, house.received = 6, 7
    await house.activity.step()
    *_, before, now = (await house.activity.read())[1]
    assert (before.hour, before.sent, before.received) == (NOON, 5, 3)
    assert (now.hour, now.sent, now.received) == (NOON + HOUR_MS, 1, 4)


async def test_processes_add_up(redis: RedisService) -> None:
    houses = [House(redis), House(redis)]
    for number, house in enumerate(houses):
        house.came, house.sent = {1, 2 + number}, 2
        await house.activity.step()
    active, hours = await houses[0].activity.read()
    assert (active["1h"], hours[-1].sent) == (3, 4)


async def test_what_was_not_written_is_written_later(redis: RedisService) -> None:
    house = House(redis)
    house.came, house.sent = {1}, 1
    await redis.close()
    with pytest.raises(RedisUnavailableError):
        await house.activity.step()
    await redis.start()
    await house.activity.step()
    active, hours = await house.activity.read()
    assert (active["1h"], hours[-1].sent) == (1, 1)
