"""一个 case：一条连接上的一种坏法；由 ``(seed, 编号)`` 完全决定。"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Final

from ..target import Target
from . import http_requests, json_frames, ws_frames
from .attacker import Attacker

Case = Callable[[Attacker, Random], Awaitable[None]]
#: 半开的握手里有这么多真的等到服务器来掐断（其余的自己走，才跑得快）。
_PATIENT_SHARE: Final = 0.02


async def run_case(target: Target, seed: int, number: int) -> None:
    """:raises Finding: 服务器没有像承诺的那样"""
    random = Random(f"{seed}:{number}")
    case = random.choices(_CASES, _WEIGHTS)[0]
    await case(Attacker(target, random), random)


def case_name(seed: int, number: int) -> str:
    chosen = Random(f"{seed}:{number}").choices(_CASES, _WEIGHTS)[0]
    return str(getattr(chosen, "__name__", chosen))


async def garbage(attacker: Attacker, random: Random) -> None:
    """不是 HTTP 的字节。"""
    async with attacker.connected():
        await attacker.send(*_pieces(http_requests.garbage(random), random))
        await _leave(attacker, random)


async def bad_handshake(attacker: Attacker, random: Random) -> None:
    token = attacker.token if random.random() < 0.7 else random.choice((None, "", "a.b.c", "\x7f"))
    request = http_requests.mutated(random, attacker.path, token)
    async with attacker.connected():
        await attacker.send(*_pieces(request, random))
        await _leave(attacker, random)


async def half_handshake(attacker: Attacker, random: Random) -> None:
    """说到一半就不说了；少数真的等服务器失去耐心。"""
    request = http_requests.upgrade(attacker.path, attacker.token)
    async with attacker.connected():
        await attacker.send(request[: random.randrange(len(request))])
        if random.random() < _PATIENT_SHARE:
            await attacker.closed()
        else:
            await _leave(attacker, random)


async def early_frames(attacker: Attacker, random: Random) -> None:
    """帧与握手在同一个包里：还没有认证就来了。"""
    token = random.choice((attacker.token, "a.b.c"))
    burst = http_requests.upgrade(attacker.path, token)
    for _ in range(random.choice((1, 3, 40))):
        burst += ws_frames.text(json_frames.json_text(random)[:3000], random)
    async with attacker.connected():
        await attacker.send(burst)
        if random.random() < 0.5:
            await attacker.end()


async def bad_frames(attacker: Attacker, random: Random) -> None:
    """已认证，帧的字节不对；最后一定断得开。"""
    async with attacker.connected():
        if not await attacker.open():
            return
        for _ in range(random.randint(1, 6)):
            if not await attacker.send(*_pieces(ws_frames.any_frames(random), random)):
                return
        if random.random() < 0.3:
            attacker.reset()
        elif random.random() < 0.1:
            # 长度撒了谎，服务器在等剩下的字节：只关写的一半，它该明白
            await attacker.end(half_close=True)


async def bad_json(attacker: Attacker, random: Random) -> None:
    """已认证，帧合格而内容坏；其后的 ping 要么有回答，要么连接已关。"""
    async with attacker.connected():
        if not await attacker.open():
            return
        for _ in range(random.randint(1, 10)):
            payload = json_frames.json_text(random)
            if not await attacker.send(ws_frames.text(payload, random)):
                return
        await attacker.ping()
        await attacker.end()


async def small_flood(attacker: Attacker, random: Random) -> None:
    """一口气几百帧：未知 id 的确认、荒唐的心跳、ping；其后仍有回答。"""
    async with attacker.connected():
        if not await attacker.open():
            return
        kind = random.randrange(3)
        for _ in range(random.choice((20, 100, 300))):
            if kind == 0:
                burst = ws_frames.text(json_frames.unknown_ack(random, 5), random)
            elif kind == 1:
                burst = ws_frames.text(json_frames.heartbeat(random), random)
            else:
                burst = ws_frames.frame(ws_frames.PING, b"x" * 100)
            await attacker.send(burst)
        await attacker.ping()
        await attacker.end()


async def vanish(attacker: Attacker, random: Random) -> None:
    """在任意一步消失。"""
    async with attacker.connected():
        step = random.randrange(4)
        if step == 1:
            await attacker.send(http_requests.upgrade(attacker.path, attacker.token))
        elif step == 2:
            await attacker.open()
        elif step == 3 and await attacker.open():
            heartbeat = ws_frames.text(json_frames.heartbeat(random), random)
            await attacker.send(heartbeat[: random.randrange(len(heartbeat))])


_CASES: Final[tuple[Case, ...]] = (
    *(garbage, bad_handshake, half_handshake, early_frames),
    *(bad_frames, bad_json, small_flood, vanish),
)
_WEIGHTS: Final = (10, 20, 8, 10, 25, 20, 2, 5)


def _pieces(data: bytes, random: Random) -> list[bytes]:
    """多半整个送，有时切成几段。"""
    if random.random() < 0.7 or len(data) < 2:
        return [data]
    cuts = sorted(random.randrange(len(data)) for _ in range(random.randint(1, 4)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True) if a < b]


async def _leave(attacker: Attacker, random: Random) -> None:
    """等一会儿回答（一轮调度），然后多半以 RST 走，有时只关写的一半等它断开。"""
    if random.random() < 0.1:
        await attacker.end(half_close=True)
    else:
        await asyncio.sleep(random.choice((0, 0, 0.005)))
