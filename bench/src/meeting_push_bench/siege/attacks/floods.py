"""照规矩发，只是多：挤别人的信箱，把队列灌满，寄大件，问了不听。"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from ..assault import PATIENCE_S, Assault

_BATCH: Final = "/api/v1/messages/batch"


def _batch(recipients: list[int], messages: int, priority: int, content: str) -> bytes:
    one = {"recipient_ids": recipients, "title": "t", "content": content, "priority": priority}
    return msgspec.json.encode({"messages": [one] * messages})


async def strangers_mailbox(assault: Assault) -> None:
    """一次 1,000 条给不在线的人。"""
    body = _batch([assault.town.absent.user_id], 1_000, 0, "c")
    await assault.keep_posting(2, _BATCH, lambda: body)


async def send_flood(assault: Assault) -> None:
    """一批 500 条 × 400 人，最急；不让就小些、不急些，直到界限之内最多的。"""
    crowd = assault.town.crowd_ids[:400]
    urgent, plain, small = (
        _batch(crowd, 500, 9, "c"),
        _batch(crowd, 120, 0, "c"),
        _batch(crowd, 2, 0, "c"),
    )
    await asyncio.gather(
        assault.keep_posting(2, _BATCH, lambda: urgent),
        assault.keep_posting(2, _BATCH, lambda: plain),
        assault.keep_posting(2, _BATCH, lambda: small),
    )


async def events_for_nobody(assault: Assault) -> None:
    """接收者收下就不响了：每一条都是一个等着的事件，上限之内有多少发多少。"""
    crowd = assault.town.crowd_ids
    bodies = [_batch([one], 100, 0, "c") for one in crowd[:20]]
    await asyncio.gather(
        assault.keep_posting(2, _BATCH, lambda: assault.random.choice(bodies)),
        assault.keep_posting(2, "/api/v1/messages", lambda: _single(crowd)),
    )


def _single(recipients: list[int]) -> bytes:
    return msgspec.json.encode({"recipient_ids": recipients, "title": "t", "content": "c"})


async def large_bodies(assault: Assault) -> None:
    """64 KB 一条，给不在线的人；内容每条不同，压不小。"""

    def body() -> bytes:
        content = assault.random.randbytes(32_000).hex()
        return _batch([assault.town.absent.user_id], 100, 0, content)

    await assault.keep_posting(2, _BATCH, body)


async def unread_answers(assault: Assault) -> None:
    """问了不听：在一条连接上排着队地问，一个字节也不读。"""

    def asking(path: str, token: bool) -> Callable[[], Awaitable[None]]:
        question = assault.head("GET", path, token=token)

        async def once() -> None:
            async with assault.call() as call:
                async with asyncio.timeout(PATIENCE_S):
                    await call.send(question * 60)
                await asyncio.sleep(PATIENCE_S)

        return once

    await asyncio.gather(
        assault.forever(60, asking("/api/v1/messages?limit=200", True)),
        assault.forever(60, asking("/openapi.json", False)),
    )
