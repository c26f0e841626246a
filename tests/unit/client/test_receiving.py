"""DLV-2：至少一次变成对应用的恰好一次；位置、确认、去重。"""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from meeting_push.client import ClientOptions, PushClient
from tests.support.scripted_server import (
    Peer,
    Signal,
    message_id,
    new_message,
    next_of,
    playing,
    sending,
)


async def test_the_message_has_every_field_of_the_contract(
    token: str, options: ClientOptions
) -> None:
    sent = new_message(1, priority=7, data={"room": 5}, attempt=2, message_type="system")

    async with (
        playing(sending(sent)) as server,
        PushClient(server.url, token, options=options) as client,
    ):
        message = await next_of(client)
        assert json.loads(message.to_json()) == {k: v for k, v in sent.items() if k != "type"}
        assert message.sender.name == "bob"
        assert "content" not in repr(message)


async def test_a_message_is_acked_when_the_next_one_is_asked_for(
    token: str, options: ClientOptions
) -> None:
    async def scene(peer: Peer) -> None:
        await peer.welcome()
        await peer.send({"type": "batch", "messages": [new_message(1), new_message(2)]})
        await peer.receive_acks(1)
        acked.set(list(peer.acked))
        await peer.stay()

    acked = Signal()
    async with playing(scene) as server, PushClient(server.url, token, options=options) as client:
        assert (await next_of(client)).seq == 1
        assert (await next_of(client)).seq == 2
        assert await acked.wait() == [message_id(1)]


async def test_breaking_out_leaves_the_last_message_unacked(
    token: str, options: ClientOptions
) -> None:
    left = Signal()
    async with playing(sending(new_message(1), new_message(2), left=left)) as server:
        async with PushClient(server.url, token, options=options) as client:
            async for message in client:
                if message.seq == 2:
                    break
        assert await left.wait() == [message_id(1)]


async def test_close_sends_the_acks_it_still_has(token: str, options: ClientOptions) -> None:
    left = Signal()
    slow = replace(options, ack_delay_s=60)
    async with playing(sending(new_message(1), left=left)) as server:
        async with PushClient(server.url, token, options=slow) as client:
            (await next_of(client)).ack()
        assert await left.wait() == [message_id(1)]


async def test_acks_are_batched(token: str, options: ClientOptions) -> None:
    async def scene(peer: Peer) -> None:
        await peer.welcome()
        await peer.send(*(new_message(seq) for seq in range(1, 6)))
        batch.set((await peer.receive("ack"))["message_ids"])
        await peer.stay()

    batch = Signal()
    slow = replace(options, ack_delay_s=0.05)
    async with playing(scene) as server, PushClient(server.url, token, options=slow) as client:
        for _ in range(5):
            await client.ack(await next_of(client))
        assert await batch.wait() == [message_id(n) for n in range(1, 6)]


async def test_an_ack_frame_fits_the_limit_of_the_server(
    token: str, options: ClientOptions
) -> None:
    async def scene(peer: Peer) -> None:
        await peer.welcome(max_frame_bytes=1024)
        await peer.send(*(new_message(seq) for seq in range(1, 101)))
        sizes = [len(json.dumps(await peer.receive("ack"))) for _ in range(4)]
        largest.set(max(sizes))
        await peer.stay()

    largest = Signal()
    slow = replace(options, ack_delay_s=0.05)
    async with playing(scene) as server, PushClient(server.url, token, options=slow) as client:
        for _ in range(100):
            await client.ack(await next_of(client))
        assert 900 < await largest.wait() <= 1024


async def test_ack_by_id_alone(token: str, options: ClientOptions) -> None:
    async def scene(peer: Peer) -> None:
        await peer.welcome()
        await peer.receive_acks(9)
        acked.set()
        await peer.stay()

    acked = Signal()
    async with playing(scene) as server, PushClient(server.url, token, options=options) as client:
        await client.ack(message_id(9))
        await acked.wait()


async def test_dlv_2_a_duplicate_is_acked_again_but_not_handed_over(
    token: str, options: ClientOptions
) -> None:
    async def scene(peer: Peer) -> None:
        await peer.welcome()
        await peer.send(new_message(1))
        await peer.receive_acks(1)
        peer.acked.clear()
        await peer.send(new_message(1, attempt=1))
        await peer.receive_acks(1)
        await peer.send(new_message(2))
        await peer.stay()

    async with playing(scene) as server, PushClient(server.url, token, options=options) as client:
        await client.ack(await next_of(client))
        assert (await next_of(client)).seq == 2


async def test_dlv_2_a_message_in_hand_is_not_queued_again(
    token: str, options: ClientOptions
) -> None:
    async with (
        playing(sending(new_message(1), new_message(1, attempt=1), new_message(2))) as server,
        PushClient(server.url, token, options=options) as client,
    ):
        assert [(await next_of(client)).seq for _ in range(2)] == [1, 2]


async def test_a_transient_message_is_handed_over_and_not_acked(
    token: str, options: ClientOptions
) -> None:
    async def scene(peer: Peer) -> None:
        await peer.welcome()
        await peer.send(new_message(None, number=5), new_message(1))
        await peer.receive("ack")
        acked.set(peer.acked)
        await peer.stay()

    acked = Signal()
    async with playing(scene) as server, PushClient(server.url, token, options=options) as client:
        for number in (5, 1):
            message = await next_of(client)
            assert message.message_id == message_id(number)
            message.ack()
        assert await acked.wait() == [message_id(1)]


@pytest.mark.parametrize(
    "text", ["{", '{"type":"tomorrow"}', '{"type":"new_message"}', b"\xff\x00"]
)
async def test_a_frame_it_does_not_understand_is_passed_over(
    token: str, options: ClientOptions, text: str | bytes
) -> None:
    async def scene(peer: Peer) -> None:
        await peer.welcome()
        await peer.send_raw(text)
        await peer.send(new_message(1))
        await peer.stay()

    async with playing(scene) as server, PushClient(server.url, token, options=options) as client:
        assert (await next_of(client)).seq == 1
        assert len(server.peers) == 1
