"""一段字的 id：几万个从没见过的、只差大小写的、文法边上的，从每扇门来。"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import cycle
from typing import Final
from urllib.parse import quote

import msgspec

from ..assault import Assault

_AT_ONCE: Final = 500
#: 文法里最长的、差一个的；像数的、像路径的。
_BORDERS: Final = ("x" * 64, "x" * 65, "~@:+._-", "05", "1e3", str(2**53), "../1", "%31", "", "é")


async def never_seen(assault: Assault) -> None:
    """发给、看、关注、冒充从没见过的人；一天一千个用完了也不停。"""
    borders = cycle(_BORDERS)

    def new() -> str:
        """同一个词，大小写各不相同。"""
        number = next(assault.numbers)
        word = "neverseenbeforeinthistown"
        return "".join(
            letter.upper() if number >> place & 1 else letter for place, letter in enumerate(word)
        )

    def body() -> bytes:
        people = [new() for _ in range(_AT_ONCE)] + [next(borders)]
        return msgspec.json.encode({"recipient_ids": people, "title": "t", "content": "c"})

    def few() -> bytes:
        return msgspec.json.encode({"recipient_ids": [new()], "title": "t", "content": "c"})

    def asking(path: Callable[[str], str]) -> Callable[[], Awaitable[None]]:
        async def once() -> None:
            async with assault.call() as call:
                while True:
                    segment = quote(next(borders) if next(assault.numbers) % 5 == 0 else new(), "")
                    await call.send(assault.head("GET", path(segment)))
                    if not await call.answer():
                        return

        return once

    async def watching() -> None:
        path = f"/ws/user/{assault.town.attacker_id}/messages"
        async with assault.socket(path) as socket:
            for _ in range(5):
                frame = {"type": "watch", "user_ids": [new() for _ in range(100)]}
                await assault.say(socket, msgspec.json.encode(frame).decode())
            async for _ in socket:
                pass

    await asyncio.gather(
        assault.keep_posting(2, "/api/v1/messages", body),
        assault.keep_posting(4, "/api/v1/messages", few),
        assault.forever(8, asking(lambda one: f"/api/v1/presence/users/{one}")),
        assault.forever(4, asking(lambda one: f"/api/v1/people/{one}")),
        assault.forever(20, watching),
    )
