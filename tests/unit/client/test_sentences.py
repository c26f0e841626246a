"""应用说给服务器的话：状态、关注、已读。"""

from __future__ import annotations

import pytest

from meeting_push.client import (
    ClientOptions,
    NotConnectedError,
    PushClient,
)
from tests.support.scripted_server import Peer, Signal, playing


async def test_what_the_application_said_last_is_said_again(
    token: str, options: ClientOptions
) -> None:
    async def first(peer: Peer) -> None:
        await peer.welcome()
        assert (await peer.receive("status"))["status"] == "away"
        assert (await peer.receive("watch"))["user_ids"] == [2, 3]
        await peer.drop()

    async def second(peer: Peer) -> None:
        await peer.welcome()
        assert (await peer.receive("status"))["status"] == "away"
        again.set((await peer.receive("watch"))["user_ids"])
        await peer.stay()

    again = Signal()
    async with (
        playing(first, second) as server,
        PushClient(server.url, token, options=options) as client,
    ):
        await client.wait_connected()
        await client.status("away")
        await client.watch([3, 2])
        assert await again.wait() == [2, 3]


async def test_mark_read_is_sent_now_or_refused(token: str, options: ClientOptions) -> None:
    async def scene(peer: Peer) -> None:
        await peer.welcome()
        read.set((await peer.receive("read"))["message_ids"])
        await peer.stay()

    read = Signal()
    async with playing(scene) as server:
        client = PushClient(server.url, token, options=options)
        with pytest.raises(NotConnectedError):
            await client.mark_read(["1" * 26])
        await client.wait_connected()
        await client.mark_read(["1" * 26])
        assert await read.wait() == ["1" * 26]
        await client.close()
