"""一群设备：一起连上，照契约发心跳，最后一起走。"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterable, Iterator

from websockets.exceptions import ConnectionClosed

from .people import Device, Person, device
from .server_process import ServerProcess

#: 同时在握手的，以及同时在道别的。
AT_ONCE = 32
#: 比 ``heartbeat_interval_s`` 的默认值勤一点：机器忙时也不误。
BEAT_S = 20


@contextlib.asynccontextmanager
async def crowd(places: Iterable[tuple[ServerProcess, Person]]) -> AsyncIterator[list[Device]]:
    """每处一台设备，次序与 ``places`` 相同，都已收到 welcome。"""
    async with contextlib.AsyncExitStack() as stack:
        turn = asyncio.Semaphore(AT_ONCE)

        async def enter(server: ServerProcess, person: Person) -> Device:
            async with turn:
                line = device(server.ws_url(person.user_id), person)
                return await stack.enter_async_context(line)

        devices = await asyncio.gather(*(enter(*place) for place in places))
        beating = asyncio.create_task(_beat(devices))
        try:
            yield devices
        finally:
            beating.cancel()
            for few in _by(AT_ONCE, devices):  # 之后 stack 逐个再关就没有等待
                await asyncio.gather(*(one.close() for one in few))


async def _beat(devices: Iterable[Device]) -> None:
    frame = json.dumps({"type": "heartbeat", "timestamp": 0})
    while True:
        await asyncio.sleep(BEAT_S)
        for one in devices:
            with contextlib.suppress(ConnectionClosed):
                await one.socket.send(frame)


def _by(count: int, devices: list[Device]) -> Iterator[list[Device]]:
    for start in range(0, len(devices), count):
        yield devices[start : start + count]
