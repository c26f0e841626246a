"""先把信箱装满：照契约 POST，等工人把每一条放进每个人的信箱。"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final

import msgspec

from ..failure import BenchError
from ..load.redis_probe import RedisProbe
from ..post_connection import PostConnection, accepted, post_head
from ..progress import OnProgress
from ..target import Target
from .plan import FlushPlan

_FULL: Final = 429
_WAIT_S: Final = 1.0
#: 信箱里这么久没有多出一条，就是不会再多了。
_GRACE_S: Final = 60.0
_POLL_S: Final = 0.2


async def fill(
    target: Target,
    sender_id: int,
    users: Sequence[int],
    plan: FlushPlan,
    probe: RedisProbe,
    on_progress: OnProgress,
) -> None:
    """返回时每个人的信箱里恰有 ``plan.messages`` 条。

    :raises BenchError: 被拒绝，或没有都进信箱
    """
    todo = iter(range(plan.messages))
    head = post_head(target.host, target.port, "/api/v1/messages", target.token(sender_id))
    content = "x" * plan.content_bytes

    async def some() -> None:
        connection = await PostConnection.open(target.host, target.port)
        try:
            for number in todo:
                body = {"recipient_ids": users, "title": str(number), "content": content}
                await _post(connection, head, msgspec.json.encode(body))
        finally:
            await connection.close()

    posting = asyncio.gather(*(some() for _ in range(plan.posters)))
    try:
        await _until_full(users, plan.messages * len(users), probe, on_progress, posting)
        await posting
    finally:
        posting.cancel()


async def _post(connection: PostConnection, head: bytes, body: bytes) -> None:
    """队列满了就等；别的拒绝是失败。"""
    while True:
        status, answer = await connection.post(head, body)
        if status != _FULL:
            accepted(status, answer)
            return
        await asyncio.sleep(_WAIT_S)


async def _until_full(
    users: Sequence[int],
    total: int,
    probe: RedisProbe,
    on_progress: OnProgress,
    posting: asyncio.Future[list[None]],
) -> None:
    best, since = -1, time.monotonic()
    while (held := await probe.waiting(users)) < total:
        on_progress(held, total)
        if posting.done():
            posting.result()
        if held > best:
            best, since = held, time.monotonic()
        elif time.monotonic() - since > _GRACE_S:
            raise BenchError(f"only {held:,} of {total:,} reached the mailboxes")
        await asyncio.sleep(_POLL_S)
