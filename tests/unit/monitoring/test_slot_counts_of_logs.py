"""日志事件的计数：全体的，按时间；一个进程死了、Redis 不在一阵，都还在。"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from meeting_push.errors import RedisUnavailableError
from meeting_push.logs import EVENTS, RepeatedWarning, counts, logger, untold
from meeting_push.monitoring.slot_counts import EventCount, LogCounts, log_samples
from meeting_push.redis.redis_service import RedisService
from meeting_push.redis.time_slots import DAY_MS, HOUR_MS, MINUTE_MS, LogCountStore

NOON = 20_000 * DAY_MS + 12 * HOUR_MS


class Watch:
    now = NOON


@pytest.fixture(autouse=True)
def nothing_said_before() -> Iterator[None]:
    untold()
    yield
    untold()


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def one(redis: RedisService, watch: Watch) -> LogCounts:
    return process(redis, watch)


def process(redis: RedisService, watch: Watch) -> LogCounts:
    return LogCounts(LogCountStore(redis.lean, redis.keys), lambda: watch.now)


async def items(counts: LogCounts, window_s: int = 300, level: str | None = None) -> object:
    return [
        (each.event, each.level, each.code, each.by_time)
        for each in (await counts.read(window_s, level)).items
    ]


async def test_what_was_said_is_counted_by_event_level_code_and_minute(
    one: LogCounts, watch: Watch
) -> None:
    logger.bind(code="unavailable").error("loop_died")
    await one.step()
    watch.now += 2 * MINUTE_MS
    for _ in range(30):
        RepeatedWarning("requests_refused").say(code="not_found")
    await one.step()
    history = await one.read(300)
    assert history.items == [
        EventCount("requests_refused", "WARNING", "not_found", 30, [0, 0, 0, 0, 30]),
        EventCount("loop_died", "ERROR", "unavailable", 1, [0, 0, 1, 0, 0]),
    ]
    assert (history.step_s, history.since) == (60, watch.now - 4 * MINUTE_MS)


async def test_the_processes_add_up_and_one_that_died_stays_counted(
    redis: RedisService, one: LogCounts, watch: Watch
) -> None:
    logger.error("task_died")
    await one.step()
    another = process(redis, watch)
    logger.error("task_died")
    await another.step()
    assert await items(another, 60) == [("task_died", "ERROR", None, [2])]


async def test_a_level_can_be_asked_for(one: LogCounts) -> None:
    logger.error("task_died")
    logger.info("serving")
    await one.step()
    assert await items(one, 60, "INFO") == [("serving", "INFO", None, [1])]


@pytest.mark.parametrize(
    ("window_s", "step_s", "slots"),
    [(60, 60, 1), (7_200, 60, 120), (7_201, 600, 13), (86_400, 600, 144), (604_800, 3_600, 168)],
)
async def test_the_longer_the_window_the_coarser_the_steps(
    one: LogCounts, window_s: int, step_s: int, slots: int
) -> None:
    logger.error("task_died")
    await one.step()
    history = await one.read(window_s)
    assert history.step_s == step_s
    assert history.items[0].by_time == [*[0] * (slots - 1), 1]


async def test_what_was_said_while_redis_was_away_is_told_afterwards_at_its_minute(
    one: LogCounts, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> None:
        raise RedisUnavailableError("away")

    with monkeypatch.context() as without:
        without.setattr(LogCountStore, "note", away)
        logger.error("redis_reconnect_failed")
        with pytest.raises(RedisUnavailableError):
            await one.step()
        await one.finish()  # 不抛出
    watch.now += 3 * MINUTE_MS
    await one.step()
    assert await items(one) == [("redis_reconnect_failed", "ERROR", None, [0, 1, 0, 0, 0])]


async def test_a_name_somebody_else_wrote_is_other(redis: RedisService, one: LogCounts) -> None:
    key = redis.keys.log_counts(f"m{NOON // MINUTE_MS}")
    await redis.lean.execute("HINCRBY", key, "<script> ERROR", 3)
    assert await items(one, 60) == [("other", "ERROR", None, [3])]


def test_c12_every_event_of_the_vocabulary_is_counted_from_zero_on() -> None:
    found = {(each.labels["event"], each.labels["level"]): each.value for each in log_samples()}
    said = {(one.event, one.level) for one in counts}
    told = {(name, level) for name, levels in EVENTS.items() for level in levels.split("/")}
    for kind in told:
        assert (kind in found) == (kind[1] != "DEBUG")
        assert kind in said or found.get(kind, 0) == 0
