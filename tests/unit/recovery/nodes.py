"""可以失忆的 Redis，与它旁边的节点。"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from meeting_push.app import MeetingPush
from tests.support.eventually import eventually
from tests.support.redis_server import RedisServer

StartNode = Callable[..., AbstractAsyncContextManager[MeetingPush]]


async def marked(push: MeetingPush) -> None:
    """等到下一个记号写进两边：此后丢的才看得出来。"""
    before = await push._rooms.recovery.reconciler._mark.read()

    async def advanced() -> bool:
        now = await push._rooms.recovery.reconciler._mark.read()
        return now is not None and (before is None or now.mark > before.mark + 1)

    await eventually(advanced, 20)


def copied_aof(redis: RedisServer, copy: Path) -> Path:
    """此刻的 AOF。"""
    shutil.copytree(redis.directory, copy, ignore=_only_aof)
    return copy


def restart_with(redis: RedisServer, copy: Path) -> None:
    """死掉，带着旧的 AOF 回来。"""
    redis.kill()
    wipe(redis.directory)
    shutil.copytree(copy, redis.directory, dirs_exist_ok=True)
    redis.start()


def wipe(directory: Path) -> None:
    for path in directory.glob("append*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _only_aof(directory: str, names: list[str]) -> set[str]:
    return {name for name in names if "append" not in name}
