"""应用眼里的收件人（Python SDK）与发送者（每次一条新的 HTTP 连接）。"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from typing import Final

import msgspec

from meeting_push.client.push_client import PushClient
from meeting_push.monitoring.latency import LatencyHistogram

from ..accounts import Accounts
from ..failure import BenchError
from ..post_connection import PostConnection, accepted, post_head
from ..target import Target

_MAX_TRIES: Final = 20
_RETRY_AFTER_S: Final = 0.1


class Device:
    """``received``：应用看到每个 id 几次；``failed``：应用看到了错误。"""

    def __init__(self, target: Target, user_id: int, latency: LatencyHistogram) -> None:
        self.user_id = user_id
        self.client = PushClient(target.base_url, target.token(user_id), user_id=user_id)
        self.received: Counter[str] = Counter()
        self.failed = False
        self._latency = latency

    async def run(self) -> None:
        try:
            async with self.client:
                async for message in self.client:
                    self.received[message.message_id] += 1
                    at_ns = int(message.title)
                    self._latency.record((time.monotonic_ns() - at_ns) // 1000)
        except Exception:  # noqa: BLE001 — 应用看到的任何错误都是这里要数的
            self.failed = True


@contextlib.asynccontextmanager
async def devices(
    target: Target, user_ids: list[int], each: int, latency: LatencyHistogram
) -> AsyncIterator[list[Device]]:
    """都连上了才进入。"""
    several = [Device(target, user_id, latency) for user_id in user_ids for _ in range(each)]
    tasks = [asyncio.create_task(device.run()) for device in several]
    try:
        await asyncio.gather(*(device.client.connected.wait() for device in several))
        yield several
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Sender:
    """``sent``：用户 → 已接受的 id；``first_tries``：第一次就被接受的有几条。"""

    def __init__(self, target: Target, accounts: Accounts) -> None:
        self._target = target
        self._recipients = accounts.recipient_ids
        token = target.token(accounts.sender_id)
        self._head = post_head(target.host, target.port, "/api/v1/messages", token)
        self._number = 0
        self.sent: defaultdict[int, set[str]] = defaultdict(set)
        self.attempted = 0
        self.first_tries = 0
        self.refusals: Counter[str] = Counter()

    async def send(self, at_ns: int) -> None:
        """失败了以同一个 Idempotency-Key 再来。

        :raises BenchError: 再三不成
        """
        number, self._number = self._number, self._number + 1
        user_id = self._recipients[number % len(self._recipients)]
        body = msgspec.json.encode(
            {"recipient_ids": [user_id], "title": str(at_ns), "content": "rolling"}
        )
        head = self._head + b"Idempotency-Key: rolling-%d\r\n" % number
        self.attempted += 1
        for attempt in range(_MAX_TRIES):
            try:
                message_id = await self._post(head, body)
            except BenchError as error:
                self.refusals[error.message] += 1
                await asyncio.sleep(_RETRY_AFTER_S)
                continue
            self.first_tries += attempt == 0
            self.sent[user_id].add(message_id)
            return
        raise BenchError(f"a send failed {_MAX_TRIES} times")

    async def _post(self, head: bytes, body: bytes) -> str:
        connection = await PostConnection.open(self._target.host, self._target.port)
        try:
            status, answer = await connection.post(head, body)
        finally:
            await connection.close()
        if status != http.client.ACCEPTED:  # 没有正文：同样的拒绝数在一起
            raise BenchError(f"POST /messages answered {status}")
        return accepted(status, answer).message_id
