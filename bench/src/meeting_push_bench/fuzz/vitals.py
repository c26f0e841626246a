"""服务器受伤了没有：指标、就绪、日志、Redis 里的键、内存。"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final

import msgspec

from meeting_push.errors import MeetingPushError
from meeting_push.redis.dial import RedisAddress
from meeting_push.redis.lean import LeanConnection

from ..failure import BenchError
from ..sampler import memory_use
from ..server_under_test import ServerUnderTest

SETTLE_TIMEOUT_S: Final = 60.0
_POLL_S: Final = 0.2
_SAMPLE_S: Final = 0.25
_SCAN_COUNT: Final = 10_000
#: ERROR 以上、死掉的任务，以及回溯的最后一行（是什么异常）。
_BAD_LINE: Final = re.compile(
    r"\b(ERROR|CRITICAL)\b|Task exception|never awaited|^[\w.]+(Error|Exception|Interrupt)\b"
)
_METRIC: Final = re.compile(r"^(\w+)(?:\{process=\"0\"\})? ([0-9.e+-]+)$", re.MULTILINE)
#: 该回到原处的量：名字 → 允许的差（抓取指标的连接自己也占一点）。
_SETTLED: Final = {
    "meeting_push_sockets": 0,
    "meeting_push_connections": 0,
    "meeting_push_asyncio_tasks": 4,
    "process_open_fds": 6,
}
#: 有 TTL 的，不算留下：证人的消息一直在产生正文与状态；epoch 与广播的游标每个用户一份，不随
#: 连接增长；过期清理的轮次时有时无。
_EXPIRING: Final = (
    *("message_", "user_seq:", "broadcast_cursor:", "expiry_turn", "outbox_turn"),
    *("active_users:", "traffic:", "log_counts:", "left_users", "trace_answers:"),
)


class Vitals(msgspec.Struct, frozen=True, kw_only=True):
    """一刻的样子。``keys``：键按类别（数字与 id 换成 ``*``）的个数。"""

    metrics: dict[str, float]
    keys: dict[str, int]
    rss_bytes: int


class Doctor:
    """``server`` 须是自己启动的：要看它的日志、进程与 Redis。"""

    def __init__(self, server: ServerUnderTest) -> None:
        assert server.pid is not None
        assert server.log is not None
        self._server = server
        self._pid = server.pid
        self._log: Path = server.log

    async def examine(self) -> Vitals:
        return Vitals(
            metrics=await asyncio.to_thread(self._metrics),
            keys=await self._keys(),
            rss_bytes=memory_use(self._pid).rss,
        )

    @contextlib.asynccontextmanager
    async def watching_memory(self) -> AsyncIterator[list[int]]:
        """期间的最大 RSS（字节），随时可看：只有一项的列表。"""
        peak = [memory_use(self._pid).rss]

        async def watch() -> None:
            while True:
                await asyncio.sleep(_SAMPLE_S)
                peak[0] = max(peak[0], memory_use(self._pid).rss)

        task = asyncio.create_task(watch())
        try:
            yield peak
        finally:
            task.cancel()

    async def complaints(self, before: Vitals) -> list[str]:
        """攻击过后还不对的地方；该回落的给它 ``SETTLE_TIMEOUT_S``。"""
        if not os.path.exists(f"/proc/{self._pid}"):  # noqa: ASYNC240 — 内存里的文件
            return ["the server died", *self._bad_lines()]
        found = self._bad_lines()
        status, _ = await asyncio.to_thread(self._get, "/readyz")
        if status != http.client.OK:
            found.append(f"/readyz answers {status}")
        return found + await self._unsettled(before)

    async def _unsettled(self, before: Vitals) -> list[str]:
        async def differences() -> list[str]:
            now = await self.examine()
            return [*_metric_differences(before, now), *_leaked_keys(before, now)]

        return await until_empty(differences)

    def _bad_lines(self) -> list[str]:
        lines = self._log.read_text(errors="replace").splitlines()
        bad = Counter(re.sub(r"\d+", "N", line)[:200] for line in lines if _BAD_LINE.search(line))
        return [f"in the log, {count} times: {line}" for line, count in bad.most_common(10)]

    def _metrics(self) -> dict[str, float]:
        status, text = self._get("/metrics")
        if status != http.client.OK:
            raise BenchError(f"/metrics answers {status}")
        return {name: float(value) for name, value in _METRIC.findall(text)}

    def _get(self, path: str) -> tuple[int, str]:
        target = self._server.target
        connection = http.client.HTTPConnection(target.host, target.port, timeout=30)
        try:
            connection.request("GET", path, headers={"Connection": "close"})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except (OSError, http.client.HTTPException) as error:
            return 0, repr(error)
        finally:
            connection.close()

    async def _keys(self) -> dict[str, int]:
        redis = LeanConnection(RedisAddress.parse(self._server.target.redis_url), name="bench-fuzz")
        kinds: Counter[str] = Counter()
        try:
            await redis.connect()
            cursor = b"0"
            while True:
                cursor, keys = await redis.execute("SCAN", cursor, "COUNT", _SCAN_COUNT)
                kinds.update(_kind(key) for key in keys)
                if cursor == b"0":
                    return dict(kinds)
        except MeetingPushError as error:
            raise BenchError(f"can not scan Redis: {error.message}") from None
        finally:
            await redis.close()


async def until_empty(check: Callable[[], Awaitable[list[str]]]) -> list[str]:
    """反复 ``check``，直到没有什么可说，或期限到了：返回最后一次的。"""
    deadline = time.monotonic() + SETTLE_TIMEOUT_S
    while (found := await check()) and time.monotonic() < deadline:  # noqa: ASYNC110 — 别的进程
        await asyncio.sleep(_POLL_S)
    return found


def _kind(key: bytes) -> str:
    return re.sub(r"[0-9A-HJKMNP-TV-Z]{26}|\d+", "*", key.decode(errors="replace"))


def _metric_differences(before: Vitals, now: Vitals) -> list[str]:
    return [
        f"{name} was {before.metrics[name]:g}, is {now.metrics[name]:g}"
        for name, slack in _SETTLED.items()
        if now.metrics[name] > before.metrics[name] + slack
    ]


def _leaked_keys(before: Vitals, now: Vitals) -> list[str]:
    return [
        f"{count - before.keys.get(kind, 0)} keys left: {kind}"
        for kind, count in now.keys.items()
        if count > before.keys.get(kind, 0) and not kind.startswith(_EXPIRING)
    ]
