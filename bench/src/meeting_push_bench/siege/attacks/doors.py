"""两扇长连接的门：关注谁也不认识的人，占满别人的会议。"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import msgspec

from ..assault import Assault
from .heads import UPGRADE

_DEVICES: Final = 100
_MADE_UP: Final = 10**12
_MEETING_SOCKETS: Final = 500


async def watch_everybody(assault: Assault) -> None:
    """100 台设备，各关注 500 个编出来的人，一遍又一遍。"""

    async def once() -> None:
        path = f"/ws/user/{assault.town.attacker_id}/messages"
        async with assault.socket(path) as socket:
            first = _MADE_UP + next(assault.numbers) * 500
            for start in range(first, first + 500, 100):
                frame = {"type": "watch", "user_ids": list(range(start, start + 100))}
                await assault.say(socket, msgspec.json.encode(frame).decode())
            async for _ in socket:
                pass

    await assault.forever(_DEVICES, once)


async def come_and_go(assault: Assault) -> None:
    """升级了就走，拿着有效的令牌；拿了 101 就走，拿着编出来的票据、令牌：用户的、会议的门都来。"""
    own = f"/ws/user/{assault.town.attacker_id}/messages"
    meeting = f"/ws/meeting/{assault.town.meeting_id}"

    def upgrade(path: str, secret: str = "", *, token: bool = False) -> Callable[[], Any]:
        async def once() -> None:
            async with assault.call() as call:
                query = f"?{secret}={assault.random.randbytes(18).hex()}" if secret else ""
                await call.send(assault.head("GET", path + query, *UPGRADE, token=token))
                await call.answer()

        return once

    await asyncio.gather(
        assault.forever(8, upgrade(own, token=True)),
        assault.forever(8, upgrade(own, "ticket")),
        assault.forever(8, upgrade(own, "token")),
        assault.forever(8, upgrade(meeting, "ticket")),
    )


async def crowd_the_meeting(assault: Assault) -> None:
    async def once() -> None:
        path = f"/ws/meeting/{assault.town.meeting_id}"
        async with assault.socket(path) as socket:
            async for _ in socket:
                pass
            assault.answers[f"closed {socket.close_code}"] += 1

    await assault.forever(_MEETING_SOCKETS, once)
