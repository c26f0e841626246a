"""心跳：按时发；服务器没了声息就离开。"""

from __future__ import annotations

from dataclasses import replace

from meeting_push.client import (
    ClientOptions,
    PushClient,
)
from tests.support.scripted_server import Peer, Signal, new_message, playing, stay


async def test_heartbeats_come_at_the_told_interval(token: str, options: ClientOptions) -> None:
    async def scene(peer: Peer) -> None:
        await peer.welcome(heartbeat_interval_s=0.01, connection_id="c-9")
        for _ in range(2):
            beat = await peer.receive("heartbeat")
            await peer.send({"type": "heartbeat_ack", "timestamp": 1, "server_time": 1, "seq": 0})
        heard.set(beat)
        await peer.stay()

    heard = Signal()
    async with playing(scene) as server, PushClient(server.url, token, options=options):
        beat = await heard.wait()
        assert beat["connection_id"] == "c-9"
        assert isinstance(beat["timestamp"], int)


async def test_a_silent_server_is_left(token: str, options: ClientOptions) -> None:
    async def silent(peer: Peer) -> None:
        await peer.welcome(heartbeat_interval_s=0.01)
        await peer.stay()

    async def second(peer: Peer) -> None:
        back.set()
        await stay(peer)

    back = Signal()
    quick = replace(options, dead_after_s=0.02)
    async with playing(silent, second) as server, PushClient(server.url, token, options=quick):
        await back.wait()


async def test_a_slow_application_does_not_make_the_server_look_dead(
    token: str, options: ClientOptions
) -> None:
    """应用来不及处理时我们自己不读套接字，心跳的回答也就读不到。"""

    async def scene(peer: Peer) -> None:
        await peer.welcome(heartbeat_interval_s=0.01)
        await peer.send(*(new_message(seq) for seq in range(1, 5)))
        for _ in range(5):
            await peer.receive("heartbeat")
        beaten.set()
        await peer.stay()

    beaten = Signal()
    quick = replace(options, dead_after_s=0.02, inbox_limit=1)
    async with playing(scene) as server, PushClient(server.url, token, options=quick) as client:
        await beaten.wait()
        assert client.connected.is_set()
        assert len(server.peers) == 1
