"""剧本里常用的几幕。"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from tests.support.scripted_server import (
    Frame,
    Peer,
    Scene,
    ScriptedServer,
    Signal,
    message_id,
    playing,
)

from .adapter import Sdk

FOREVER = 3_600_000


def ids(*numbers: int) -> list[str]:
    return [message_id(number) for number in numbers]


def telling(*frames: Frame, acks: tuple[int, ...], done: Signal, **welcome: Any) -> Scene:
    """欢迎，送出这些，等到 ``acks`` 都确认过；``done`` 得到确认过的（连同重复的）。"""

    async def scene(peer: Peer) -> None:
        await peer.welcome(**welcome)
        await peer.send(*frames)
        await peer.receive_acks(*acks)
        done.set(list(peer.acked))
        await peer.stay()

    return scene


def closing(code: int, reason: str = "") -> Scene:
    async def scene(peer: Peer) -> None:
        await peer.welcome()
        await peer.close(code, reason)

    return scene


@contextlib.asynccontextmanager
async def against(
    client: Sdk, *scenes: Scene, peers: int, **options: Any
) -> AsyncIterator[ScriptedServer]:
    """``client`` 对着这些剧本开始，离开时好好停下；一共来过 ``peers`` 条连接。

    :param options: ``Sdk.start`` 的
    """
    async with playing(*scenes) as server:
        client.start(server.url, **options)
        yield server
        await client.stop()
        assert len(server.peers) == peers
