"""逐项的洪水：一种坏法，量大；每一项都有它该有的结局。"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import repeat
from random import Random
from typing import Final

from ..target import Target
from . import http_requests, json_frames, ws_frames
from .attacker import Attacker
from .plan import FuzzPlan

Flood = Callable[[Target, FuzzPlan, Random], Awaitable[None]]
_DRIP_S: Final = 0.1
#: 同时发起的连接：监听队列有限，不拿它当被测的东西。
_CONNECTING: Final = 200


async def slowloris(target: Target, plan: FuzzPlan, random: Random) -> None:
    """握手一个字节一个字节地来：期限一到就断开，来多少都不续。"""

    async def drip(attacker: Attacker) -> None:
        request = http_requests.upgrade(attacker.path, attacker.token)
        async with attacker.connected():
            dripping = asyncio.create_task(_drip(attacker, request))
            await attacker.closed()
            dripping.cancel()

    await _all(drip, _attackers(target, random, plan.slowloris))


async def endless_head(target: Target, plan: FuzzPlan, random: Random) -> None:
    """请求头没完没了：不能无限地收下去。"""

    async def grow(attacker: Attacker) -> None:
        async with attacker.connected():
            await attacker.send(b"GET /ws/user/1/messages HTTP/1.1\r\n")
            await attacker.send(*repeat(b"X: " + b"y" * 60_000 + b"\r\n", 100))
            await attacker.closed()

    await _all(grow, _attackers(target, random, plan.flood_connections))


async def half_open(target: Target, plan: FuzzPlan, random: Random) -> None:
    """连上之后什么也不说，或说一半：全部同时开着，期限一到都被掐断。"""
    gate = asyncio.Semaphore(_CONNECTING)

    async def idle(attacker: Attacker) -> None:
        await gate.acquire()
        async with attacker.connected():
            gate.release()
            if attacker.user_id % 2:
                await attacker.send(b"GET /ws/user/1/mess")
            await attacker.closed()

    await _all(idle, _attackers(target, random, plan.half_open))


async def unknown_acks(target: Target, plan: FuzzPlan, random: Random) -> None:
    """确认一百万个从没有过的 id，每帧一千个。"""
    ids = 1_000
    frames = plan.ack_ids // ids // plan.flood_connections
    await _talk(target, plan, random, lambda: json_frames.unknown_ack(random, ids), frames)


async def unknown_single_acks(target: Target, plan: FuzzPlan, random: Random) -> None:
    """同上，每帧一个。"""
    frames = plan.ack_frames // plan.flood_connections
    await _talk(target, plan, random, lambda: json_frames.unknown_ack(random, 1), frames)


async def absurd_heartbeats(target: Target, plan: FuzzPlan, random: Random) -> None:
    frames = plan.heartbeats // plan.flood_connections
    await _talk(target, plan, random, lambda: json_frames.heartbeat(random), frames)


async def ping_flood(target: Target, plan: FuzzPlan, random: Random) -> None:
    """灌 ping，自己一个字节也不读。"""
    pings = ws_frames.frame(ws_frames.PING, b"p" * 125) * 100
    bursts = plan.pings // 100 // plan.flood_connections

    async def pour(attacker: Attacker) -> None:
        async with attacker.connected(receive_buffer=4096):
            if await attacker.open():
                await attacker.send(*repeat(pings, bursts))

    await _all(pour, _attackers(target, random, plan.flood_connections))


FLOODS: Final[tuple[Flood, ...]] = (
    *(slowloris, endless_head, half_open),
    *(unknown_acks, unknown_single_acks, absurd_heartbeats, ping_flood),
)


async def _talk(
    target: Target, plan: FuzzPlan, random: Random, payload: Callable[[], bytes], frames: int
) -> None:
    """几条已认证的连接各发 ``frames`` 帧，照常读；服务器可以关掉它们，但要从容。"""

    async def pour(attacker: Attacker) -> None:
        async with attacker.connected():
            if not await attacker.open():
                return
            reading = asyncio.create_task(attacker.closed(timeout_s=600))
            for _ in range(frames):
                if not await attacker.send(ws_frames.text(payload(), random)):
                    break
            await attacker.send(ws_frames.frame(ws_frames.CLOSE, b"\x03\xe8"))
            await reading

    await _all(pour, _attackers(target, random, plan.flood_connections))


async def _drip(attacker: Attacker, request: bytes) -> None:
    for index in range(len(request)):
        if not await attacker.send(request[index : index + 1]):
            return
        await asyncio.sleep(_DRIP_S)


def _attackers(target: Target, random: Random, count: int) -> list[Attacker]:
    return [Attacker(target, random) for _ in range(count)]


async def _all(attack: Callable[[Attacker], Awaitable[None]], attackers: list[Attacker]) -> None:
    """:raises Finding: 第一个；其余的取消"""
    tasks = [asyncio.ensure_future(attack(attacker)) for attacker in attackers]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
