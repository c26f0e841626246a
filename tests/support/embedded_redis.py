"""本进程里的 ``EmbeddedRedis``，与一条通向它的连接。"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

from meeting_push.redis.dial import RedisAddress
from meeting_push.redis.embedded import EmbeddedRedis
from meeting_push.redis.lean import LeanConnection


@asynccontextmanager
async def running(data_dir: Path) -> AsyncIterator[tuple[EmbeddedRedis, LeanConnection]]:
    embedded = EmbeddedRedis(data_dir)
    lean = LeanConnection(RedisAddress.parse(await embedded.start()))
    try:
        await lean.connect()
        yield embedded, lean
    finally:
        await lean.close()
        await embedded.stop()


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
