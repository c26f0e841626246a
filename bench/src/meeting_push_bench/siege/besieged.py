"""被围的：我们的进程、Redis、数据库、日志各有多大。"""

from __future__ import annotations

import asyncio
import contextlib
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..load.redis_probe import redis_probe
from ..sampler import memory_use
from ..server_under_test import ServerUnderTest

_SAMPLE_S: Final = 0.25


@dataclass(frozen=True, slots=True)
class Size:
    """字节；日志是行数。``redis``：它的数据占的内存；``database``：文件连同 WAL。"""

    redis: int
    database: int
    log_lines: int


class Besieged:
    """``peak_rss``：开始看以来的最高点。"""

    def __init__(self, server: ServerUnderTest) -> None:
        assert server.pid is not None
        assert server.log is not None
        self._pid, self._log = server.pid, server.log
        self._target = server.target
        self._data = server.log.parent / "data"
        self.peak_rss = 0

    async def size(self) -> Size:
        async with redis_probe(self._target) as probe:
            redis = (await probe.use()).memory_bytes
        files = self._data.glob("*.db*")
        lines = self._log.read_bytes().count(b"\n")
        return Size(redis, sum(one.stat().st_size for one in files), lines)

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        async def watch() -> None:
            while True:
                self.peak_rss = max(self.peak_rss, memory_use(self._pid).rss)
                await asyncio.sleep(_SAMPLE_S)

        task = asyncio.create_task(watch())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def check_alive(self) -> None:
        """:raises BenchError: 服务器死了"""
        memory_use(self._pid)

    def readable_by_others(self) -> list[Path]:
        """数据文件夹里别人读得到的（A15）。"""
        found = [self._data, *self._data.rglob("*")]
        return [one for one in found if stat.S_IMODE(one.lstat().st_mode) & 0o077]

    def tracebacks(self) -> int:
        return self._log.read_text(errors="replace").count("Traceback (most recent call last)")

    def forged_lines(self) -> int:
        """A13：出现在行首的伪造的行，与原样的转义字符。"""
        text = self._log.read_bytes()
        return text.count(b"\n2026-01-01 00:00:00.000") + text.count(b"\x1b")
