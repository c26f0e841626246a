"""REST 发送的两种负载：尽快（闭环），与按节拍（开环）。"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from itertools import cycle
from typing import Final

import msgspec

from meeting_push.monitoring.latency import LatencyHistogram

from .arrivals import Arrivals
from .failure import BenchError
from .orders import Paced, SendBurst, SendPaced, Sent
from .post_connection import PostConnection, accepted, post_head

#: 开环用的长连接：同时在途的上限。都忙时新的等着，等待算进它的延迟。
PACED_CONNECTIONS: Final = 32
_CONTENT: Final = "x" * 100


@contextlib.asynccontextmanager
async def _connections(host: str, port: int, count: int) -> AsyncIterator[list[PostConnection]]:
    async with contextlib.AsyncExitStack() as stack:
        opened: list[PostConnection] = []
        for _ in range(count):
            connection = await PostConnection.open(host, port)
            stack.push_async_callback(connection.close)
            opened.append(connection)
        yield opened


class _Posts:
    """轮流发给各收件人；``title`` 带着时刻，设备据此算延迟。"""

    def __init__(self, order: SendBurst | SendPaced) -> None:
        target = order.target
        self._head = post_head(target.host, target.port, "/api/v1/messages", order.token)
        self._recipients = cycle(order.recipient_ids)
        self.accepted = 0

    async def post(self, connection: PostConnection, at_ns: int) -> None:
        """:raises BenchError: 不是 202"""
        body = {
            "recipient_ids": [next(self._recipients)],
            "title": str(at_ns),
            "content": _CONTENT,
        }
        accepted(*await connection.post(self._head, msgspec.json.encode(body)))
        self.accepted += 1


async def send_burst(order: SendBurst, arrivals: Arrivals) -> Sent:
    """:raises BenchError: 有的被拒绝，或没有到达"""
    posts, latency = _Posts(order), LatencyHistogram()
    arrivals.start()
    start = time.monotonic_ns()
    deadline = start + int(order.duration_s * 1e9)

    async def one_after_another(connection: PostConnection) -> None:
        while (at := time.monotonic_ns()) < deadline:
            await posts.post(connection, at)
            latency.record((time.monotonic_ns() - at) // 1000)

    target = order.target
    async with _connections(target.host, target.port, order.concurrency) as connections:
        await asyncio.gather(*map(one_after_another, connections))
    elapsed = (time.monotonic_ns() - start) / 1e9
    await arrivals.wait(posts.accepted)  # 不把积压留给下一段测量
    return Sent(accepted=posts.accepted, elapsed_s=elapsed, latency=latency)


async def send_paced(order: SendPaced, arrivals: Arrivals) -> Paced:
    """等到每一条都到达。

    :raises BenchError: 有的被拒绝，或没有到达
    """
    arrivals.start()
    posts = _Posts(order)
    total = int(order.rate_per_s * order.duration_s)
    target = order.target
    async with _connections(target.host, target.port, PACED_CONNECTIONS) as connections:
        idle: asyncio.Queue[PostConnection] = asyncio.Queue()
        for connection in connections:
            idle.put_nowait(connection)

        async def post(at_ns: int) -> None:
            connection = await idle.get()
            await posts.post(connection, at_ns)
            idle.put_nowait(connection)

        await at_pace(order.rate_per_s, total, post)
    await arrivals.wait(total)
    return Paced(accepted=posts.accepted, latency=arrivals.latency)


async def at_pace(
    rate_per_s: float, total: int, post: Callable[[int], Coroutine[None, None, None]]
) -> None:
    """按节拍各起一个 ``post``（收下预定的时刻，纳秒），不等前一个。

    :raises BenchError: 有的没有做成
    """
    start = time.monotonic_ns()
    try:
        async with asyncio.TaskGroup() as group:
            for index in range(total):
                at_ns = start + int(index * 1e9 / rate_per_s)
                await asyncio.sleep(max(0, (at_ns - time.monotonic_ns()) / 1e9))
                while time.monotonic_ns() < at_ns:  # noqa: ASYNC110 — uvloop 至多早醒 1 ms
                    await asyncio.sleep(0)
                group.create_task(post(at_ns))
    except* BenchError as failures:
        raise BenchError(
            f"{len(failures.exceptions)} sends failed: {failures.exceptions[0]}"
        ) from None
