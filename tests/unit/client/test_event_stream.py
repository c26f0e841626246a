"""没有 WebSocket 时：换到事件流，换回来，确认走 REST，拒绝与关闭的意思一样。"""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from meeting_push.client import (
    ClientOptions,
    HandshakeRejectedError,
    NotConnectedError,
    PushClient,
    PushRefusedError,
)
from meeting_push.client.event_stream import EventReader
from tests.support.eventually import eventually
from tests.support.scripted_server import (
    Peer,
    Refusal,
    ScriptedServer,
    Signal,
    message_id,
    new_message,
    next_of,
    playing,
    stay,
)


@pytest.fixture
def stream(options: ClientOptions) -> ClientOptions:
    """只走事件流。"""
    return replace(options, transport="sse")


def kinds(server: ScriptedServer) -> list[str]:
    return [peer.kind for peer in server.peers]


# ── 换路 ────────────────────────────────────────────────────────────────────


async def test_sse_that_fails_as_well_is_the_servers_fault_websocket_first_again(
    token: str, options: ClientOptions
) -> None:
    async with (
        playing(statuses=(502, 502), refuse={"sse": [Refusal(502)]}) as server,
        PushClient(server.url, token, options=options) as client,
    ):
        await client.wait_connected()
        assert kinds(server) == ["websocket"]


async def test_a_server_that_closes_with_a_code_is_no_reason_to_leave_websocket(
    token: str, options: ClientOptions
) -> None:
    async def unhealthy(peer: Peer) -> None:
        await peer.close(4007, "node_unhealthy")

    async with (
        playing(unhealthy, unhealthy, unhealthy, stay) as server,
        PushClient(server.url, token, options=options) as client,
    ):
        await client.wait_connected()
        assert kinds(server) == ["websocket"] * 4


async def test_who_is_refused_everywhere_from_the_start_is_told(
    token: str, options: ClientOptions
) -> None:
    async with playing(statuses=(404, 404), refuse={"sse": [Refusal(404)]}) as server:
        with pytest.raises(HandshakeRejectedError) as caught:
            await PushClient(server.url, token, options=options).wait_connected()
    assert caught.value.status == 404


# ── 在流上 ──────────────────────────────────────────────────────────────────


async def test_messages_are_acked_by_rest_and_resumed_by_position(
    token: str, stream: ClientOptions
) -> None:
    async def first(peer: Peer) -> None:
        await peer.welcome()
        await peer.send(new_message(1))
        await peer.trickle({"type": "batch", "messages": [new_message(2), new_message(3)]})
        await peer.receive_acks(1, 2, 3)
        await peer.drop()

    async def second(peer: Peer) -> None:
        assert (peer.query["epoch"], peer.query["last_seq"]) == ("epoch-1", "3")
        await peer.welcome(seq=3)
        await peer.send(new_message(3, attempt=1), new_message(4))
        await peer.receive_acks(4)
        done.set()
        await peer.stay()

    done = Signal()
    got: list[int | None] = []
    async with playing(first, second) as server:
        client = PushClient(server.url, token, options=stream)
        client.on("message", lambda message: got.append(message.seq))
        running = asyncio.create_task(client.run())
        await done.wait()
        await client.close()
        await running
    assert got == [1, 2, 3, 4]


async def test_an_ack_refused_for_good_is_forgotten(token: str, stream: ClientOptions) -> None:
    async def scene(peer: Peer) -> None:
        await peer.welcome()
        await peer.send(new_message(1))
        first.set()
        await peer.receive_acks(2)
        assert peer.acked == [message_id(2)]
        acked.set()
        await peer.stay()

    first, acked = Signal(), Signal()
    no = [Refusal(422, "invalid")]
    async with (
        playing(scene, refuse={"acks": no}) as server,
        PushClient(server.url, token, options=stream) as client,
    ):
        (await next_of(client)).ack()
        await eventually(lambda: not no)
        await eventually(lambda: not client._intake.acks.unconfirmed())
        await server.peers[0].send(new_message(2))
        (await next_of(client)).ack()
        await acked.wait()


async def test_what_can_not_be_said_over_sse_waits_for_websocket(
    token: str, stream: ClientOptions
) -> None:
    async with playing() as server, PushClient(server.url, token, options=stream) as client:
        await client.wait_connected()
        await client.status("busy")
        await client.watch([7])
        assert client._lifeline.connection is not None
        with pytest.raises(NotConnectedError):
            await client._lifeline.connection.send(client._standing.greeting()[0])


async def test_a_refused_stream_means_what_the_close_code_means(
    token: str, stream: ClientOptions
) -> None:
    """每一种拒绝是哪个码：``tests/conformance/sdk/test_ways.py``。"""
    async with playing(refuse={"sse": [Refusal(403, "replaced")]}) as server:
        client = PushClient(server.url, token, options=stream)
        with pytest.raises(PushRefusedError) as caught:
            await client.wait_connected()
        assert (caught.value.close_code, caught.value.reason) == (4505, "replaced")
        assert (client.state.final, client.state.code) == (True, 4505)


async def test_the_close_event_means_what_the_close_code_means(stream: ClientOptions) -> None:
    async def expired(peer: Peer) -> None:
        await peer.welcome()
        await peer.close(4004, "token_expired")

    async def kicked(peer: Peer) -> None:
        await peer.welcome()
        await peer.close(4503, "kicked")

    asked: list[bool] = []

    def token(*, fresh: bool) -> str:
        asked.append(fresh)
        return "opaque"

    async with playing(expired, kicked) as server:
        client = PushClient(server.url, token, user_id=1, options=stream)
        client.on_message(lambda message: None)
        with pytest.raises(PushRefusedError) as caught:
            await client.run()
    assert caught.value.close_code == 4503
    assert asked == [False, True]


async def test_retry_after_is_obeyed(token: str, stream: ClientOptions) -> None:
    busy = Refusal(429, "rate_limited", retry_after_s=1_000)
    async with (
        playing(refuse={"sse": [busy]}) as server,
        PushClient(server.url, token, options=stream) as client,
    ):
        await eventually(lambda: client.state.reason == "rate_limited")
        client.retry_now()  # 应用知道得更多
        await client.wait_connected()


# ── 格式 ────────────────────────────────────────────────────────────────────


def test_the_three_line_ends_comments_and_many_lines_of_data() -> None:
    reader = EventReader()
    text = b":hello\r\nid: e:1\r\ndata: a\r\ndata:b\r\n\r\nevent: close\rdata: {}\r\rdata\n\n"
    expected = [(b"", b"a\nb"), (b"close", b"{}"), (b"", b"")]
    assert reader.push(text) == expected
    piecewise = EventReader()
    events = [event for byte in text for event in piecewise.push(bytes([byte]))]
    assert events == expected


def test_an_event_without_data_is_none() -> None:
    assert EventReader().push(b"event: x\n\ndata: y\n\n") == [(b"", b"y")]
