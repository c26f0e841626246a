"""一个没有 HTTP 的节点：投递路径上的每一站都是真的，直接调用它的服务。"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from meeting_push.app import MeetingPush
from meeting_push.settings import Settings


class Everybody:
    """谁都存在。"""

    async def existing_ids(self, user_ids: Sequence[int]) -> set[int]:
        return set(user_ids)


@contextlib.asynccontextmanager
async def node(
    redis_url: str, database_url: str, directory: Path, **changes: object
) -> AsyncIterator[MeetingPush]:
    """各种间隔都缩短了；``changes`` 是别的设置。"""
    given: dict[str, object] = {
        "redis_url": redis_url,
        "database_url": database_url,
        "data_dir": directory / "data",
        "reconcile_interval_s": 0.05,
        "straggler_interval_s": 3600,
        "relay_interval_s": 0.1,
        "relay_grace_s": 0.5,
        "consumer_block_ms": 50,
        **changes,
    }
    push = MeetingPush(Settings(**given), directory=Everybody())
    await push.start()
    try:
        yield push
    finally:
        await push.stop()
