"""几个节点：一个端口（由内核分配连接），同一个 Redis，同一个数据库。"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from meeting_push.redis.embedded import EmbeddedRedis

from ..failure import BenchError
from ..server_under_test import READY_WAIT_S, end, free_port, launch, server_environment
from ..target import Target

_SERVING: Final = b" serving"
_POLL_S: Final = 0.05


@contextlib.asynccontextmanager
async def nodes(count: int) -> AsyncIterator[Nodes]:
    """:raises BenchError: 有一个起不来"""
    with tempfile.TemporaryDirectory(prefix="mp-bench-") as name:
        redis = EmbeddedRedis(Path(name) / "redis")
        await redis.start()
        try:
            several = Nodes(Path(name), redis.url)
            try:
                for _ in range(count):
                    await several.start()
                yield several
            finally:
                await several.stop()
        finally:
            await redis.stop()


class Nodes:
    """按启动的次序排着；``restart_oldest`` 换掉最前面的。"""

    def __init__(self, directory: Path, redis_url: str) -> None:
        self._directory = directory
        self._started = 0
        self._running: list[subprocess.Popen[bytes]] = []
        self.target: Final = Target(
            host="127.0.0.1",
            port=free_port(),
            redis_url=redis_url,
            jwt_secret=secrets.token_urlsafe(32),
            jwt_audience="meeting-push",
        )

    async def start(self) -> None:
        """返回时它已在接客。"""
        settings = {"reuse_port": True, "redis_url": self.target.redis_url}
        environment = server_environment(self.target, self._directory, settings)
        self._started += 1
        log = self._directory / f"node-{self._started}.log"
        process = launch(self._directory, environment, log.name)
        self._running.append(process)
        async with asyncio.timeout(READY_WAIT_S):
            while _SERVING not in log.read_bytes():
                if process.poll() is not None:
                    raise BenchError("a node did not start")
                await asyncio.sleep(_POLL_S)

    async def restart_oldest(self) -> None:
        """SIGTERM，等它从容退出，再起一个。

        :raises BenchError: 它没有好好退出
        """
        oldest = self._running.pop(0)
        await asyncio.to_thread(end, oldest)
        if oldest.returncode != 0:
            raise BenchError(f"a node ended with {oldest.returncode}")
        await self.start()

    async def stop(self) -> None:
        for process in self._running:
            await asyncio.to_thread(end, process)
