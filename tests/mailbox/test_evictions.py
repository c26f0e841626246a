"""被信箱上限挤出去的：先记录，后忘掉。"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from meeting_push.errors import DatabaseUnavailableError
from meeting_push.services.eviction_recorder import EVICTED, EvictionRecorder
from meeting_push.services.redis_service import RedisService


class Record:
    def __init__(self) -> None:
        self.rows: list[tuple[str, int]] = []
        self.down = False

    async def record_failed(self, pairs: Sequence[tuple[str, int]], reason: str) -> None:
        if self.down:
            raise DatabaseUnavailableError("down")
        assert reason == EVICTED
        self.rows += pairs


async def evict(redis: RedisService, user_id: object, message_id: str) -> None:
    stream = redis.keys.mailbox_evictions
    await redis.lean.execute(
        *("XADD", stream, "*", "user_id", str(user_id), "message_id", message_id)
    )


async def left(redis: RedisService) -> int:
    return int(await redis.lean.execute("XLEN", redis.keys.mailbox_evictions))


async def test_what_was_recorded_is_forgotten(redis: RedisService) -> None:
    record = Record()
    recorder = EvictionRecorder(redis, record.record_failed, interval_s=1)
    await evict(redis, 1, "a")
    await evict(redis, 2, "a")
    await recorder.sweep()
    assert record.rows == [("a", 1), ("a", 2)]
    assert (await left(redis), recorder.evicted) == (0, 2)


async def test_dlv_1_what_could_not_be_recorded_stays(redis: RedisService) -> None:
    record = Record()
    recorder = EvictionRecorder(redis, record.record_failed, interval_s=1)
    await evict(redis, 1, "a")
    record.down = True
    with pytest.raises(DatabaseUnavailableError):
        await recorder.sweep()
    assert await left(redis) == 1
    record.down = False
    await recorder.sweep()
    assert record.rows == [("a", 1)]


async def test_what_others_wrote_is_thrown_away(redis: RedisService) -> None:
    record = Record()
    await evict(redis, "nobody", "a")
    await EvictionRecorder(redis, record.record_failed, interval_s=1).sweep()
    assert (record.rows, await left(redis)) == ([], 0)
