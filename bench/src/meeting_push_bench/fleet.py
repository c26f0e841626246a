"""一个负载进程手里的全部设备：连上一台，按时心跳，一起断开。"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Final, Protocol

from picows import WSMsgType, WSTransport, ws_connect

from .device import Device
from .target import Target

#: 每个源地址至多这么多连接：超过临时端口段的一半，内核找空闲端口会慢 5 倍。
SOCKETS_PER_ADDRESS: Final = 1_500
CONNECT_TIMEOUT_S: Final = 30.0
_BEAT_STEP_S: Final = 0.1
#: 给 Logger 时 picows 会为每条连接造一个子 logger；给 LoggerAdapter 不会。
_LOGGER: Final = logging.LoggerAdapter(logging.getLogger("bench.devices"), {})


class Link(Protocol):
    """一条连接：picows 的 ``WSTransport``，或一条事件流。"""

    def send(self, msg_type: WSMsgType, message: bytes, /) -> None: ...

    def disconnect(self, graceful: bool = True, /) -> None: ...

    async def wait_disconnected(self) -> None: ...


async def beat(devices: Sequence[tuple[Link, Device]], interval_s: float) -> None:
    """一直替 ``devices``（期间可以添）心跳：每一条从看见它起，每 ``interval_s`` 一次。

    间隔都一样，所以先来的总是先到点。
    """
    due: deque[tuple[float, int]] = deque()
    seen = 0
    while True:
        await asyncio.sleep(_BEAT_STEP_S)
        now = time.monotonic()
        due.extend((now + interval_s, place) for place in range(seen, len(devices)))
        seen = len(devices)
        frame = b'{"type":"heartbeat","timestamp":%d}' % (time.time_ns() // 1_000_000)
        while due and due[0][0] <= now:
            _, place = due.popleft()
            transport, device = devices[place]
            if not device.lost:
                transport.send(WSMsgType.TEXT, frame)
                due.append((now + interval_s, place))


async def hang_up(
    devices: Sequence[tuple[Link, Device]],
    beating: asyncio.Task[None] | None,
    *,
    graceful: bool = True,
) -> None:
    """停下心跳（``beat`` 的任务），断开全部；``graceful`` 为假就掐断。"""
    if beating is not None:
        beating.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await beating
    for transport, device in devices:
        device.closing = True
        transport.disconnect(graceful)
    await asyncio.gather(*(transport.wait_disconnected() for transport, _ in devices))


async def open_device(
    target: Target, user_id: int, index: int, device: Device, url: str | None = None
) -> WSTransport:
    """连上并等到 welcome；``index`` 是它在全部连接里的序号，决定源地址。

    :raises OSError, WSError, TimeoutError: 没连上
    """
    async with asyncio.timeout(CONNECT_TIMEOUT_S):
        transport, _ = await ws_connect(
            partial(_give, device),
            url or target.messages_url(user_id),
            extra_headers={"Authorization": f"Bearer {target.token(user_id)}"},
            websocket_handshake_timeout=CONNECT_TIMEOUT_S,
            logger_name=_LOGGER,
            read_buffer_init_size=1024,
            local_addr=source_address(index),
        )
        await device.welcomed
    return transport


def source_address(index: int) -> tuple[str, int]:
    return f"127.0.0.{2 + index // SOCKETS_PER_ADDRESS}", 0


def _give(device: Device) -> Device:
    return device
