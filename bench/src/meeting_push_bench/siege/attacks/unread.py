"""问了不听：在一条连接上排着队地问，一个字节也不读。"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from ..assault import PATIENCE_S, Assault


async def unread_answers(assault: Assault) -> None:
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
