"""剧本里常用的几幕。"""

from __future__ import annotations

from typing import Any

from tests.support.scripted_server import Frame, Peer, Scene, Signal, message_id

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
