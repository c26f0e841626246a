"""管理员：出着故障时正是他看操作页的时候；一页一页地问，记下得到了什么、等了多久。"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator
from typing import Final

from ..failure import BenchError
from ..post_connection import PostConnection
from .history import HistoryWriter, Looked, now_ms
from .ledger import Ledger
from .town import Town

_PAUSE_S: Final = 0.3
#: 令牌里的 id；不必有这个账号。
_ADMIN_ID: Final = 9_000_001
_PATHS: Final = (
    *("/stats", "/stats/history", "/alerts?state=all", "/alerts/rules", "/logs/events"),
    *("/mailboxes", "/queues", "/queues/dead-letter", "/deliveries/failures/causes"),
)


class Operator:
    """``run`` 直到被取消；轮着问各个 api。"""

    def __init__(self, town: Town, ledger: Ledger, history: HistoryWriter) -> None:
        self._town = town
        self._ledger = ledger
        self._history = history

    async def run(self) -> None:
        for server, path in zip(itertools.cycle(self._town.apis), self._paths(), strict=False):
            await asyncio.sleep(_PAUSE_S)
            since = time.monotonic()
            status = await self._ask(server.target.host, server.target.port, path)
            took_ms = int((time.monotonic() - since) * 1_000)
            self._history.write(Looked(at=now_ms(), path=path, status=status, took_ms=took_ms))

    async def _ask(self, host: str, port: int, path: str) -> int:
        token = self._town.apis[0].target.token(_ADMIN_ID, "admin")
        head = f"GET /api/v1{path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
        try:
            connection = await PostConnection.open(host, port)
        except BenchError:
            return 0  # 正在重启
        try:
            return (await connection.post(head.encode(), b""))[0]
        except BenchError:
            return 0
        finally:
            await connection.close()

    def _paths(self) -> Iterator[str]:
        """各页，夹着看一个人、追最近的一条消息。"""
        for number in itertools.count():
            yield from _PATHS
            yield f"/users/{self._ledger.users[number % len(self._ledger.users)]}/inspect"
            recent = list(self._ledger.accepted)[-1:]
            yield from (f"/messages/{message_id}/trace" for message_id, _ in recent)
