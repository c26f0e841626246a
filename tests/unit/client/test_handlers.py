"""回调用法：一次一个，出错不确认，在处理函数里关闭。"""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from meeting_push.client import ClientOptions, PushClient, ReceivedMessage
from meeting_push.protocol import frames
from tests.support.scripted_server import Peer, Signal, message_id, new_message, playing, sending


@pytest.mark.parametrize("synchronous", [False, True])
async def test_dlv_2_a_handler_that_fails_gets_the_message_again(
    token: str, options: ClientOptions, synchronous: bool
) -> None:
    """C13：不是协程函数的也照样。"""

    async def first(peer: Peer) -> None:
        await peer.welcome(seq=0)
        await peer.send(new_message(1), new_message(2))
        await peer.receive_acks(2)
        await peer.drop()

    async def second(peer: Peer) -> None:
        assert peer.query["last_seq"] == "0"
        await peer.welcome(seq=2)
        await peer.send(new_message(1), new_message(2))
        await peer.receive_acks(1, 2)
        await client.close()
        await peer.stay()

    handled: list[int | None] = []

    def note(message: ReceivedMessage) -> None:
        handled.append(message.seq)
        if len(handled) == 1:
            raise RuntimeError("not now")

    async def note_later(message: ReceivedMessage) -> None:
        note(message)

    async with playing(first, second) as server:
        client = PushClient(server.url, token, options=options)
        client.on_message(note if synchronous else note_later)
        await asyncio.wait_for(client.run(), 5)
    assert handled == [1, 2, 1]


@pytest.mark.parametrize("by", ["message.ack()", "client.ack(message)", "client.ack(id)"])
async def test_a_message_acked_in_its_handler_is_acked_once(
    token: str, options: ClientOptions, by: str
) -> None:
    """C13：处理函数里确认过、确认已经送出，返回时不再送一次。"""
    acked: list[str] = []
    confirmed = asyncio.Event()

    async def scene(peer: Peer) -> None:
        await peer.welcome(seq=0)
        await peer.send(new_message(1))
        acked.extend((await peer.receive("ack"))["message_ids"])
        confirmed.set()
        await peer.send(new_message(2))
        acked.extend((await peer.receive("ack"))["message_ids"])
        await client.close()
        await peer.stay()

    async with playing(scene) as server:
        client = PushClient(server.url, token, options=options)

        @client.on_message
        async def handler(message: ReceivedMessage) -> None:
            if message.seq == 1:
                if by == "message.ack()":
                    message.ack()
                else:
                    await client.ack(message if by == "client.ack(message)" else message.message_id)
                await confirmed.wait()

        await asyncio.wait_for(client.run(), 5)
    assert acked == [message_id(1), message_id(2)]


async def test_handlers_run_one_at_a_time_in_order(token: str, options: ClientOptions) -> None:
    async def scene(peer: Peer) -> None:
        await peer.welcome()
        await peer.send(*(new_message(seq) for seq in range(1, 6)))
        await peer.receive_acks(5)
        await client.close()
        await peer.stay()

    running = most = 0
    handled: list[int | None] = []
    async with playing(scene) as server:
        client = PushClient(server.url, token, options=options)

        @client.on_message
        async def handler(message: ReceivedMessage) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            handled.append(message.seq)
            running -= 1

        await asyncio.wait_for(client.run(), 5)
    assert (most, handled) == (1, [1, 2, 3, 4, 5])


async def test_concurrency_is_an_option(token: str, options: ClientOptions) -> None:
    together = asyncio.Barrier(2)
    async with playing(sending(new_message(1), new_message(2))) as server:
        client = PushClient(server.url, token, options=replace(options, concurrency=2))

        @client.on_message
        async def handler(message: ReceivedMessage) -> None:
            await together.wait()
            await client.close()

        await asyncio.wait_for(client.run(), 5)


async def test_closing_in_the_handler_still_acks_its_message(
    token: str, options: ClientOptions
) -> None:
    left = Signal()
    async with playing(sending(new_message(1), new_message(2), left=left)) as server:
        client = PushClient(server.url, token, options=options)

        @client.on_message
        async def handler(message: ReceivedMessage) -> None:
            await client.close()

        await asyncio.wait_for(client.run(), 5)
        assert await left.wait() == [message_id(1)]


async def test_a_handler_outlives_its_connection(token: str, options: ClientOptions) -> None:
    async def first(peer: Peer) -> None:
        await peer.welcome()
        await peer.send(new_message(1))
        await started.wait()
        await peer.drop()

    async def second(peer: Peer) -> None:
        await peer.welcome(seq=1)
        await peer.send(new_message(1))
        release.set()
        await peer.receive_acks(1)
        await client.close()
        await peer.stay()

    started, release = Signal(), Signal()
    handled: list[int | None] = []
    async with playing(first, second) as server:
        client = PushClient(server.url, token, options=options)

        @client.on_message
        async def handler(message: ReceivedMessage) -> None:
            handled.append(message.seq)
            started.set()
            await release.wait()

        await asyncio.wait_for(client.run(), 5)
    assert handled == [1]


async def test_cancelling_run_closes_without_acking_the_unfinished(
    token: str, options: ClientOptions
) -> None:
    started, left = Signal(), Signal()
    async with playing(sending(new_message(1), left=left)) as server:
        client = PushClient(server.url, token, options=options)

        @client.on_message
        async def handler(message: ReceivedMessage) -> None:
            started.set()
            await asyncio.Event().wait()

        running = asyncio.create_task(client.run())
        await started.wait()
        running.cancel()
        await asyncio.wait({running})
        assert running.cancelled()
        assert await left.wait() == []


async def test_a_failing_event_handler_does_not_stop_the_client(
    token: str, options: ClientOptions
) -> None:
    read_sync = {"type": "read_sync", "message_ids": [message_id(1)], "unread_count": 3}

    second = Signal()
    calls: list[int] = []

    def handler(frame: frames.ReadSync) -> None:
        calls.append(frame.unread_count)
        if len(calls) == 1:
            raise RuntimeError("broken")
        second.set()

    async with playing(sending(read_sync, read_sync)) as server:
        client = PushClient(server.url, token, options=options)
        client.on("read_sync", handler)
        async with client:
            await second.wait()
    assert calls == [3, 3]


def test_an_unknown_event_name_is_an_error(token: str) -> None:
    with pytest.raises(ValueError, match="unknown event"):
        PushClient("http://host", token).on("massage", print)


async def test_run_without_a_handler_is_an_error(token: str) -> None:
    with pytest.raises(RuntimeError, match="on_message"):
        await PushClient("http://host", token).run()
