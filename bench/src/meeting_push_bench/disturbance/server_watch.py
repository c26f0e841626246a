"""看着服务器：内存与以 4001 关闭的次数。两种情形里看得一样勤，否则量到的是自己。

读 ``/metrics`` 与 ``smaps_rollup`` 都让服务器停几毫秒；只在一种情形里读，延迟的差就出自这里
（每秒 20 次时 P95 多一半）。
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import re
import time
from collections.abc import AsyncIterator
from typing import Final

from ..failure import BenchError
from ..sampler import memory_use
from ..server_under_test import ServerUnderTest
from ..target import Target

_CLOSED: Final = re.compile(r'meeting_push_closes_total\{code="4001"\} ([0-9.]+)')
_PERIOD_S: Final = 0.5
_CLOSE_TIMEOUT_S: Final = 60.0


class ServerWatch:
    """``closes`` 是最近一次看到的；``peak`` 是开始看以来内存的最高点，字节。"""

    def __init__(self, server: ServerUnderTest) -> None:
        self._server = server
        self._seen = asyncio.Condition()
        self.closes = 0.0
        self.memory = 0
        self.peak = 0

    async def run(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(_PERIOD_S)

    async def look(self) -> None:
        text = await asyncio.to_thread(_metrics, self._server.target)
        found = _CLOSED.search(text)
        self.closes = float(found[1]) if found else 0.0
        pid = self._server.pid
        self.memory = memory_use(pid).pss if pid is not None else 0
        self.peak = max(self.peak, self.memory)
        async with self._seen:
            self._seen.notify_all()

    async def one_more_close(self) -> tuple[float, int]:
        """等到又关了一条：用时（秒，精确到一次查看的间隔）与期间内存的增长（最高点）。

        :raises BenchError: 一直没有关
        """
        closes, before, start = self.closes, self.memory, time.monotonic()
        self.peak = before
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT_S), self._seen:
                await self._seen.wait_for(lambda: self.closes > closes)
        except TimeoutError:
            raise BenchError("the slow consumer was never closed") from None
        return time.monotonic() - start, self.peak - before


@contextlib.asynccontextmanager
async def watching(server: ServerUnderTest) -> AsyncIterator[ServerWatch]:
    """:raises BenchError: /metrics 不回答"""
    watch = ServerWatch(server)
    await watch.look()
    running = asyncio.create_task(watch.run())
    try:
        yield watch
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


def _metrics(target: Target) -> str:
    connection = http.client.HTTPConnection(target.host, target.port, timeout=10)
    try:
        connection.request("GET", "/metrics", headers={"Connection": "close"})
        return connection.getresponse().read().decode()
    except (OSError, http.client.HTTPException) as error:
        raise BenchError(f"/metrics does not answer: {error!r}") from None
    finally:
        connection.close()
