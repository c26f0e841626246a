"""各进程的报告放在 Redis 的一个哈希里：问任何一个进程都看得见全体。"""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec
from loguru import logger

from ..errors import MeetingPushError, RedisUnavailableError
from ..redis.keys import Keys
from ..redis.lean import LeanConnection
from .report import NodeReport, Reporter

#: 这么多个周期没有新报告，就当那个进程不在了。
STALE_INTERVALS: Final = 3

_decoder: Final = msgspec.json.Decoder(NodeReport)


class NodeReports:
    """``run`` 须由监督者一直运行；错误是 ``RedisUnavailableError``。"""

    def __init__(
        self,
        reporter: Reporter,
        lean: LeanConnection,
        keys: Keys,
        interval_s: float,
    ) -> None:
        self._reporter = reporter
        self._lean = lean
        self._key = keys.node_reports
        self._interval_s = interval_s
        self._stale_ms = int(interval_s * 1000) * STALE_INTERVALS

    async def run(self) -> None:
        """监督者运行的循环体；永不返回。"""
        while True:
            try:
                await self._write(self._reporter.tick())
            except RedisUnavailableError as error:
                logger.bind(reason=error.message).debug("node_report_deferred")
            await asyncio.sleep(self._interval_s)

    async def _write(self, report: NodeReport) -> None:
        await self._lean.execute("HSET", self._key, report.node_id, msgspec.json.encode(report))

    async def read(self) -> list[NodeReport]:
        """此刻在的各进程的报告，按 id；自己的是现做的。死去的顺手清掉。"""
        own = self._reporter.report()
        flat = await self._lean.execute("HGETALL", self._key)
        reports = [own]
        stale: list[bytes] = []
        for node_id, raw in zip(flat[::2], flat[1::2], strict=True):
            report = _decode(raw)
            if report is None or report.reported_at < own.reported_at - self._stale_ms:
                stale.append(node_id)
            elif report.node_id != own.node_id:
                reports.append(report)
        if stale:
            await self._lean.execute("HDEL", self._key, *stale)
        return sorted(reports, key=lambda report: report.node_id)

    async def withdraw(self) -> None:
        """关机时：不再算在内。"""
        try:
            await self._lean.execute("HDEL", self._key, self._reporter.node_id)
        except MeetingPushError as error:
            logger.bind(code=error.code, cause=error.cause).debug("node_report_left")


def _decode(raw: bytes) -> NodeReport | None:
    try:
        return _decoder.decode(raw)
    except msgspec.DecodeError:  # 另一个版本写的
        return None
