"""别的页面与别人的后端：编出来的 API 密钥，没完没了的预检与没有的方法。"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from itertools import cycle
from typing import Final

from ..assault import Assault
from ..orders import FRIENDLY_ORIGIN
from .heads import UPGRADE

_CONNECTIONS: Final = 16
_LISTS: Final = ("/api/v1/messages", "/api/v1/stats", "/api/v1/queues", "/api/v1/users/online")
#: 预检问的：发、确认、事件流、浏览器的文件。
_ASKED: Final = (
    *("/api/v1/messages", "/api/v1/acks", "/sse/user/1/messages", "/static/meeting-push.js"),
    *("/api/v1/nothing", "/api/v1/messages/counts"),
)
_SEND: Final = b'{"recipient_ids":[1],"title":"t","content":"c"}'


async def made_up_keys(assault: Assault) -> None:
    """样子都对、没有一枚是真的：每一枚都要问一次记录；读、发、升级都来。"""

    def key() -> str:
        random = base64.urlsafe_b64encode(assault.random.randbytes(32)).rstrip(b"=")
        return f"Authorization: Bearer mpk_{random.decode()}"

    def lines() -> tuple[str, ...]:
        return (key(),)

    async def upgrade() -> None:
        async with assault.call() as call:
            path = f"/ws/user/{assault.town.attacker_id}/messages"
            await call.send(assault.head("GET", path, *UPGRADE, key(), token=False))
            await call.answer()

    lists = cycle(_LISTS)
    asking = _asking(assault, lambda: assault.head("GET", next(lists), key(), token=False))
    await asyncio.gather(
        assault.forever(_CONNECTIONS, asking),
        assault.keep_posting(4, "/api/v1/messages", lambda: _SEND, token=False, lines=lines),
        assault.forever(8, upgrade),
    )


async def preflights(assault: Assault) -> None:
    """名单里的来源、不在的、胡写的；没有的方法。"""
    asked = "Access-Control-Request-Method: POST"
    origins = cycle((FRIENDLY_ORIGIN, "https://elsewhere.example", "null", "x" * 8_000))
    methods = cycle(("OPTIONS", "OPTIONS", "PUT", "BREW", "OPTIONS"))
    paths = cycle(_ASKED)

    def question() -> bytes:
        origin = f"Origin: {next(origins)}"
        return assault.head(next(methods), next(paths), origin, asked, token=False)

    await assault.forever(2 * _CONNECTIONS, _asking(assault, question))


def _asking(assault: Assault, question: Callable[[], bytes]) -> Callable[[], Awaitable[None]]:
    """一条连接上一个接一个地问。"""

    async def once() -> None:
        async with assault.call() as call:
            while True:
                await call.send(question())
                if not await call.answer():
                    return

    return once
