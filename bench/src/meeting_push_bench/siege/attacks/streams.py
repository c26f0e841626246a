"""没有 WebSocket 时的两扇门：事件流开了就走、开了不读、几百条、胡写的位置；确认灌了又灌。"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import cycle
from typing import Final

import msgspec

from ..assault import PATIENCE_S, Assault, Call

_LEAVING, _UNREAD, _KEPT = 16, 60, 300
_ACKS: Final = "/api/v1/acks"
#: 不是位置的，与像位置的：从头要起、从没有发生过的。
_POSITIONS: Final = (
    *("x", ":", "0:0", "1:-1", "1:1e3", f"1:{2**53}", f"{'9' * 64}:{'9' * 64}", "\xe9:\xe9"),
    *("1:1" * 2_000, ":" * 7_000),
)
_ULID: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_WRONG: Final = (
    b'{"message_ids":[' + b'"",' * 20_000 + b'""]}',
    b'{"message_ids":[' + b"1," * 30_000 + b"1]}",
    b'{"connection_id":"x","upto":-1}',
    b'{"connection_id":"x","upto":1,"message_ids":["' + b"0" * 26 + b'"]}',
    b"[" * 60_000,
)


async def event_streams(assault: Assault) -> None:
    own = f"/sse/user/{assault.town.attacker_id}/messages"
    others = f"/sse/user/{assault.town.honest[0].user_id}/messages"
    positions = cycle(_POSITIONS)

    def position() -> str:
        return f"Last-Event-ID: {next(positions)}"

    def left(head: Callable[[], bytes]) -> Callable[[], Awaitable[None]]:
        """问了，听见第一句就走。"""

        async def once() -> None:
            async with assault.call() as call:
                await call.send(head())
                await call.heard()

        return once

    async def kept() -> None:
        async with assault.call() as call:
            await call.send(assault.head("GET", own))
            await call.until_closed()

    async def unread() -> None:
        async with assault.call() as call:
            await call.send(assault.head("GET", own))
            await asyncio.sleep(PATIENCE_S)

    def ticket() -> str:
        return f"{own}?ticket={assault.random.randbytes(18).hex()}"

    await asyncio.gather(
        assault.forever(_LEAVING, left(lambda: assault.head("GET", own))),
        assault.forever(8, left(lambda: assault.head("GET", own, position()))),
        assault.forever(4, left(lambda: assault.head("GET", others))),
        assault.forever(4, left(lambda: assault.head("GET", ticket(), token=False))),
        assault.forever(_KEPT, kept),
        assault.forever(_UNREAD, unread),
        assault.keep_posting(2, "/api/v1/messages", lambda: _large(assault)),
    )


def _large(assault: Assault) -> bytes:
    """给自己：开着的流都得写它。"""
    content = assault.random.randbytes(30_000).hex()
    body = {"recipient_ids": [assault.town.attacker_id], "title": "t", "content": content}
    return msgspec.json.encode(body)


async def ack_floods(assault: Assault) -> None:
    """一千个没见过的 id 一次，别人的消息，没有的连接，写坏了的。"""
    foreign = await _sent_to_others(assault)
    wrong = cycle(_WRONG)

    def unknown() -> bytes:
        return msgspec.json.encode({"message_ids": [_ulid(assault) for _ in range(1_000)]})

    def of_others() -> bytes:
        return msgspec.json.encode({"message_ids": foreign})

    def upto() -> bytes:
        connection = assault.random.randbytes(8).hex()
        return msgspec.json.encode({"connection_id": connection, "upto": 2**53 - 1})

    await asyncio.gather(
        assault.keep_posting(4, _ACKS, unknown),
        assault.keep_posting(2, _ACKS, of_others),
        assault.keep_posting(16, _ACKS, upto),
        assault.keep_posting(4, _ACKS, lambda: next(wrong)),
        assault.keep_posting(4, _ACKS, unknown, token=False),
    )


async def _sent_to_others(assault: Assault) -> Sequence[str]:
    """他发的：认得出，可不是给他的。"""
    one = {"recipient_ids": assault.town.crowd_ids[:1], "title": "t", "content": "c"}
    async with assault.call() as call:
        body = msgspec.json.encode({"messages": [one] * 100})
        await assault.post(call, "/api/v1/messages/batch", body)
        found = _Sent.of(call)
    return found * 10 or [_ulid(assault)]


class _Sent(msgspec.Struct):
    results: list[dict[str, object]] = []

    @classmethod
    def of(cls, call: Call) -> list[str]:
        """上一个回答里的各 id；他此刻发不了就没有。"""
        return [str(each["message_id"]) for each in call.said(cls).results]


def _ulid(assault: Assault) -> str:
    """像此刻的消息的 id。"""
    number = int(time.time() * 1000) << 80 | assault.random.getrandbits(80)
    return "".join(_ULID[number >> shift & 31] for shift in range(125, -1, -5))
