"""位置：重连时声称哪里，``gap`` 与 ``resync`` 之后又在哪里。"""

from __future__ import annotations

from dataclasses import replace

import pytest

from meeting_push.client import ClientOptions, PushClient
from meeting_push.protocol import frames
from tests.support.scripted_server import EPOCH, Peer, Signal, new_message, next_of, playing, stay


@pytest.mark.parametrize("inbox_limit", [1, 10])
async def test_what_was_still_queued_when_the_connection_broke_comes_again(
    token: str, options: ClientOptions, inbox_limit: int
) -> None:
    async def first(peer: Peer) -> None:
        await peer.welcome(heartbeat_interval_s=0.01)
        await peer.send(new_message(1), new_message(2), new_message(3))
        await taken.wait()
        await peer.receive("heartbeat")
        await peer.drop()

    async def second(peer: Peer) -> None:
        await peer.welcome(seq=3)
        await peer.send(new_message(2), new_message(3))
        back.set()
        await peer.stay()

    taken, back = Signal(), Signal()
    async with (
        playing(first, second) as server,
        PushClient(server.url, token, options=replace(options, inbox_limit=inbox_limit)) as client,
    ):
        (await next_of(client)).ack()
        taken.set()
        await back.wait()
        assert [(await next_of(client)).seq for _ in range(2)] == [2, 3]


async def test_reconnecting_presents_the_position(token: str, options: ClientOptions) -> None:
    async def first(peer: Peer) -> None:
        await peer.welcome(seq=5)
        await peer.send(new_message(6), new_message(7))
        await peer.receive_acks(6, 7)
        await peer.drop()

    async def second(peer: Peer) -> None:
        query.set(peer.query)
        await stay(peer)

    query = Signal()
    async with (
        playing(first, second) as server,
        PushClient(server.url, token, options=options) as client,
    ):
        for _ in range(2):
            await client.ack(await next_of(client))
        presented = await query.wait()
        assert (presented["epoch"], presented["last_seq"]) == (EPOCH, "7")


async def test_the_position_stays_below_what_was_overtaken(
    token: str, options: ClientOptions
) -> None:
    """紧急的 7 超了 6：6 没到之前，只能声称 5。"""

    async def first(peer: Peer) -> None:
        await peer.welcome(seq=5)
        await peer.send(new_message(7, priority=9))
        await peer.receive_acks(7)
        await peer.drop()

    async def second(peer: Peer) -> None:
        query.set(peer.query)
        await peer.welcome(seq=7)
        await peer.send(new_message(6), new_message(7))
        await peer.stay()

    query = Signal()
    async with (
        playing(first, second) as server,
        PushClient(server.url, token, options=options) as client,
    ):
        await client.ack(await next_of(client))
        assert (await query.wait())["last_seq"] == "5"
        assert (await next_of(client)).seq == 6


async def test_a_gap_is_told_and_moves_the_position(token: str, options: ClientOptions) -> None:
    gap = {"type": "gap", "from_seq": 6, "to_seq": 8, "count": 3, "reason": "evicted"}

    async def first(peer: Peer) -> None:
        await peer.welcome(seq=5)
        await peer.send(gap)
        await told.wait()
        await peer.drop()

    async def second(peer: Peer) -> None:
        query.set(peer.query)
        await stay(peer)

    told, query = Signal(), Signal()
    async with playing(first, second) as server:
        client = PushClient(server.url, token, options=options)
        client.on("gap", told.set)
        async with client:
            frame = await told.wait()
            assert isinstance(frame, frames.Gap)
            assert (frame.from_seq, frame.to_seq, frame.reason) == (6, 8, "evicted")
            assert (await query.wait())["last_seq"] == "8"


async def test_a_resync_is_told_and_starts_the_new_epoch(
    token: str, options: ClientOptions
) -> None:
    async def first(peer: Peer) -> None:
        await peer.welcome(seq=5)
        await peer.drop()

    async def second(peer: Peer) -> None:
        await peer.welcome(epoch="epoch-2", seq=2, resumed=False)
        await peer.send({"type": "resync", "reason": "epoch_changed", "epoch": "epoch-2", "seq": 2})
        await told.wait()
        await peer.drop()

    async def third(peer: Peer) -> None:
        query.set(peer.query)
        await stay(peer)

    told, query = Signal(), Signal()
    async with playing(first, second, third) as server:
        client = PushClient(server.url, token, options=options)

        async def on_resync(frame: frames.Resync) -> None:
            told.set(frame.reason)

        client.on("resync", on_resync)
        async with client:
            assert await told.wait() == "epoch_changed"
            presented = await query.wait()
            assert (presented["epoch"], presented["last_seq"]) == ("epoch-2", "2")


async def test_an_ack_the_server_never_answered_is_sent_again(
    token: str, options: ClientOptions
) -> None:
    async def deaf(peer: Peer) -> None:
        await peer.welcome()
        await peer.send(new_message(1))
        await peer.next_frame()  # 收到了确认，却没来得及办就断了
        await peer.drop()

    async def second(peer: Peer) -> None:
        await peer.welcome(seq=1)
        await peer.receive_acks(1)
        acked.set()
        await peer.stay()

    acked = Signal()
    async with (
        playing(deaf, second) as server,
        PushClient(server.url, token, options=options) as client,
    ):
        await client.ack(await next_of(client))
        await acked.wait()
