"""两扇长连接的门：关注谁也不认识的人，占满别人的会议。"""

from __future__ import annotations

from typing import Final

import msgspec

from ..assault import Assault

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


async def crowd_the_meeting(assault: Assault) -> None:
    async def once() -> None:
        path = f"/ws/meeting/{assault.town.meeting_id}"
        async with assault.socket(path) as socket:
            async for _ in socket:
                pass
            assault.answers[f"closed {socket.close_code}"] += 1

    await assault.forever(_MEETING_SOCKETS, once)
