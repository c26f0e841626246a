"""REST 发送的负载：开环（按节拍，不等前一条）与闭环（量满载）；失败只计数，不中断。"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Final

import msgspec

from meeting_push.monitoring.latency import LatencyHistogram

from ..failure import BenchError
from ..post_connection import Accepted, PostConnection, accepted, post_head
from ..progress import OnProgress
from .orders import Post, Posted

_ACCEPTED: Final = 202
_CONTENT: Final = "x" * 100
_API: Final = "/api/v1/messages"


class _Batch(msgspec.Struct, frozen=True):
    results: list[Accepted]


_many: Final = msgspec.json.Decoder(_Batch)


async def post(order: Post, on_progress: OnProgress) -> Posted:
    """``on_progress`` 报的是已接受的收件人数。"""
    run = _Posting(order, on_progress)
    start = time.monotonic_ns()
    try:
        await (run.closed_loop() if order.rate_per_s is None else run.open_loop(order.rate_per_s))
    finally:
        await run.close()
    return Posted(
        recipients=run.recipients,
        message_ids=run.message_ids,
        answers=dict(run.answers),
        latency=run.latency,
        elapsed_s=(time.monotonic_ns() - start) / 1e9,
    )


class _Posting:
    def __init__(self, order: Post, on_progress: OnProgress) -> None:
        target = order.target
        self._order = order
        self._on_progress = on_progress
        self._batched = order.messages_per_request > 1
        path = f"{_API}/batch" if self._batched else _API
        self._head = post_head(target.host, target.port, path, order.token)
        self._each = min(order.recipients_per_message, len(order.recipient_ids))
        #: None：还没打开，或坏了要重开。
        #: 后还的先用：发得慢时总用那几条，其余的闲着被服务器关掉，也不碍事。
        self._idle: asyncio.LifoQueue[PostConnection | None] = asyncio.LifoQueue()
        for _ in range(order.connections):
            self._idle.put_nowait(None)
        self.recipients = 0
        self.message_ids: list[str] = []
        self.answers: Counter[str] = Counter()
        self.latency = LatencyHistogram()

    async def open_loop(self, rate_per_s: float) -> None:
        """都忙时新的等着，等待算进它的延迟。"""
        requests_per_s = rate_per_s / (self._each * self._order.messages_per_request)
        total = max(1, int(requests_per_s * self._order.duration_s))
        await at_pace(requests_per_s, total, self._post)

    async def closed_loop(self) -> None:
        deadline = time.monotonic_ns() + int(self._order.duration_s * 1e9)

        async def one_after_another() -> None:
            while (now := time.monotonic_ns()) < deadline:
                await self._post(now)

        await asyncio.gather(*(one_after_another() for _ in range(self._order.connections)))

    async def close(self) -> None:
        while not self._idle.empty():
            connection = self._idle.get_nowait()
            if connection is not None:
                await connection.close()

    async def _post(self, at_ns: int) -> None:
        connection = await self._idle.get()
        try:
            if connection is not None and connection.stale:
                await connection.close()
                connection = None
            if connection is None:
                connection = await PostConnection.open(
                    self._order.target.host, self._order.target.port
                )
            status, answer = await connection.post(self._head, self._body(at_ns))
        except BenchError:
            self.answers["no_answer"] += 1
            if connection is not None:
                await connection.close()
            self._idle.put_nowait(None)
            return
        self._idle.put_nowait(connection)
        self.latency.record((time.monotonic_ns() - at_ns) // 1000)
        self._count(status, answer)

    def _body(self, at_ns: int) -> bytes:
        messages = [self._message(at_ns) for _ in range(self._order.messages_per_request)]
        return msgspec.json.encode({"messages": messages} if self._batched else messages[0])

    def _message(self, at_ns: int) -> dict[str, object]:
        recipients = random.sample(self._order.recipient_ids, self._each)
        return {"recipient_ids": recipients, "title": str(at_ns), "content": _CONTENT}

    def _count(self, status: int, answer: bytes) -> None:
        self.answers[str(status)] += 1
        if status != _ACCEPTED:
            return
        taken = _many.decode(answer).results if self._batched else [accepted(status, answer)]
        self.message_ids += [one.message_id for one in taken]
        self.recipients += sum(one.recipient_count for one in taken)
        self._on_progress(self.recipients, 0)


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
