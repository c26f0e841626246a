"""正文：一百万字节的空对象、深得读不回来的 data、没有令牌的 8 MB。"""

from __future__ import annotations

import asyncio
from itertools import cycle
from typing import Final

from ..assault import Assault

_BOMBS: Final = (
    ("/api/v1/messages/batch", b'{"messages":[' + b"{}," * 341_000 + b"{}]}"),
    (
        "/api/v1/messages",
        b'{"title":"t","content":"c","recipient_ids":[' + b'"x",' * 250_000 + b"1]}",
    ),
    ("/api/v1/messages/read", b'{"message_ids":[' + b"1," * 500_000 + b"1]}"),
    ("/api/v1/meetings", b'{"title":"t","participant_ids":[' + b"{}," * 341_000 + b"{}]}"),
)
_LARGE: Final = 8 * 2**20
_WITHHELD: Final = 40


async def validation_bomb(assault: Assault) -> None:
    bombs = cycle(_BOMBS)

    async def once() -> None:
        async with assault.call() as call:
            path, body = next(bombs)
            await assault.post(call, path, body)

    await assault.forever(4, once)


async def nested_data(assault: Assault) -> None:
    """寄给一位老实人：他的收件箱此后该照样读得出来。"""
    victim = assault.town.honest[0].user_id

    def body() -> bytes:
        depth = assault.random.randint(256, 900)
        nested = '{"a":' * depth + "1" + "}" * depth
        text = f'{{"recipient_ids":[{victim}],"title":"t","content":"c","data":{nested}}}'
        return text.encode()

    await assault.keep_posting(4, "/api/v1/messages", body)


async def unauthenticated_bodies(assault: Assault) -> None:
    """一半整个地发；40 条连接各留住最后一个字节。"""
    large = b"[" + b" " * (_LARGE - 2) + b"]"
    head = assault.head("POST", "/api/v1/messages", token=False, length=_LARGE)

    async def whole() -> None:
        async with assault.call() as call:
            await call.send(head + large)
            await call.answer()

    async def withheld() -> None:
        async with assault.call() as call:
            await call.send(head + large[:-1])
            await call.answer()

    await asyncio.gather(assault.forever(4, whole), assault.forever(_WITHHELD, withheld))
