"""连上、断了再连、不许再连。"""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from meeting_push.client import (
    ClientOptions,
    ClientState,
    HandshakeRejectedError,
    NotConnectedError,
    PushClient,
    PushRefusedError,
)
from meeting_push.errors import ConfigurationError
from tests.support.eventually import eventually
from tests.support.ports import free_port
from tests.support.scripted_server import Peer, Scene, Signal, playing, stay


async def test_a_new_device_presents_its_id_and_no_position(
    token: str, options: ClientOptions
) -> None:
    async with (
        playing() as server,
        PushClient(server.url, token, device_info="cli 1.0", options=options) as client,
    ):
        await client.wait_connected()
        assert server.peers[0].query == {"device_id": client.device_id, "device_info": "cli 1.0"}


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host", "http://", "http://host?x=1"])
def test_a_bad_base_url_is_refused_at_once(url: str, token: str) -> None:
    with pytest.raises(ConfigurationError):
        PushClient(url, token)


async def test_a_path_prefix_is_kept(token: str, options: ClientOptions) -> None:
    async with (
        playing() as server,
        PushClient(f"{server.url}/push/", token, options=options) as client,
    ):
        await client.wait_connected()
        assert server.peers[0].path.path == "/push/ws/user/1/messages"


async def test_the_state_can_be_watched(token: str, options: ClientOptions) -> None:
    async with playing() as server:
        client = PushClient(server.url, token, options=options)
        states = [client.state]
        await client.wait_connected()
        states.append(client.state)
        await client.close()
        states.append(client.state)
    names = [(state.name, state.reason, state.final) for state in states]
    assert names == [
        (ClientState.DISCONNECTED, "not_started", True),
        (ClientState.CONNECTED, "", False),
        (ClientState.DISCONNECTED, "stopped", True),
    ]
    assert states[1].transport == "websocket"
    assert not client.connected.is_set()


@pytest.mark.parametrize("code", [1000, 1001, 4000, 4001, 4003, 4005, 4006, 4007])
async def test_reconnects_after_a_passing_close_code(
    token: str, options: ClientOptions, code: int
) -> None:
    async def first(peer: Peer) -> None:
        await peer.welcome()
        await peer.close(code)

    async def second(peer: Peer) -> None:
        back.set()
        await stay(peer)

    back = Signal()
    async with playing(first, second) as server, PushClient(server.url, token, options=options):
        await back.wait()


async def test_reconnects_after_the_connection_is_cut(token: str, options: ClientOptions) -> None:
    async def first(peer: Peer) -> None:
        await peer.welcome()
        await peer.drop()

    async def second(peer: Peer) -> None:
        back.set()
        await stay(peer)

    back = Signal()
    async with playing(first, second) as server, PushClient(server.url, token, options=options):
        await back.wait()


async def test_keeps_trying_while_the_upgrade_is_refused_for_now(
    token: str, options: ClientOptions
) -> None:
    async with (
        playing(statuses=(503, 429, 502)) as server,
        PushClient(server.url, token, options=options) as client,
    ):
        await client.wait_connected()


@pytest.mark.parametrize("status", [403, 404, 302])
async def test_stops_when_the_first_upgrade_is_rejected(
    token: str, options: ClientOptions, status: int
) -> None:
    only = replace(options, transport="websocket")
    async with playing(statuses=(status,)) as server:
        with pytest.raises(HandshakeRejectedError) as caught:
            await PushClient(server.url, token, options=only).wait_connected()
        assert caught.value.status == status
        assert server.peers == []


async def test_a_first_frame_that_is_no_welcome_is_not_a_connection(
    token: str, options: ClientOptions
) -> None:
    async def rude(peer: Peer) -> None:
        await peer.send({"type": "notice", "code": "hello", "reconnect_after_ms": 0})
        await peer.stay()

    async with (
        playing(rude, stay) as server,
        PushClient(server.url, token, options=options) as client,
    ):
        await client.wait_connected()
        assert len(server.peers) == 2


@pytest.mark.parametrize(
    ("code", "reason"), [(4500, "invalid_token"), (4501, "forbidden"), (4505, "replaced")]
)
async def test_stops_with_a_typed_error_on_a_final_close_code(
    token: str, options: ClientOptions, code: int, reason: str
) -> None:
    async def refuse(peer: Peer) -> None:
        await peer.close(code, reason)

    async with playing(refuse) as server:
        client = PushClient(server.url, token, options=options)
        with pytest.raises(PushRefusedError) as caught:
            await client.wait_connected()
        error = caught.value
        assert (error.close_code, error.reason, error.code) == (code, reason, reason)
        assert client.state.final
        assert len(server.peers) == 1


async def test_the_iterator_and_run_raise_the_refusal_too(
    token: str, options: ClientOptions
) -> None:
    async def kick(peer: Peer) -> None:
        await peer.welcome()
        await peer.close(4503, "kicked")

    async def ignore(message: object) -> None:
        del message

    async with playing(kick) as server:
        with pytest.raises(PushRefusedError):
            async for _ in PushClient(server.url, token, options=options):
                pass
        client = PushClient(server.url, token, options=options)
        client.on_message(ignore)
        with pytest.raises(PushRefusedError):
            await client.run()


def draining(reconnect_after_ms: int) -> Scene:
    async def scene(peer: Peer) -> None:
        notice = {"type": "notice", "code": "draining", "reconnect_after_ms": reconnect_after_ms}
        await peer.welcome()
        await peer.send(notice)
        await peer.close(4000, "server_draining")

    return scene


async def test_lesson_1_a_draining_server_tells_the_window(
    token: str, options: ClientOptions
) -> None:
    """平常的退避长到测试等不起：连上了就说明听了服务器的。"""

    async def second(peer: Peer) -> None:
        back.set()
        await stay(peer)

    back = Signal()
    slow = replace(options, backoff_base_s=1e9, backoff_cap_s=1e9)
    async with playing(draining(1), second) as server, PushClient(server.url, token, options=slow):
        await back.wait()


async def test_lesson_1_a_window_of_zero_is_not_an_invitation_to_rush(
    token: str, options: ClientOptions
) -> None:
    """说“0 毫秒后”的服务器：照平常的退避来，从第一次起就抖动。"""

    slow = replace(options, backoff_base_s=1e9, backoff_cap_s=1e9)
    async with (
        playing(draining(0)) as server,
        PushClient(server.url, token, options=slow) as client,
    ):
        await client.wait_connected()
        await eventually(lambda: client.state.retry_at is not None)
        await asyncio.sleep(0.05)  # 立刻就来的话早已离开这个状态
        assert client.state.retry_at is not None


async def test_a_server_that_is_not_there_is_asked_again_soon(
    token: str, options: ClientOptions
) -> None:
    """平常的退避长到测试等不起：没有人在听的时候不照它。"""
    port = free_port()
    slow = replace(options, backoff_base_s=1e9, backoff_cap_s=1e9, unreachable_cap_s=0.001)
    async with PushClient(f"http://localhost:{port}", token, options=slow) as client:
        await eventually(lambda: client.state.retry_at is not None)
        async with playing(port=port):
            await asyncio.wait_for(client.wait_connected(), 10)


async def test_a_server_that_refuses_is_left_alone_for_longer(
    token: str, options: ClientOptions
) -> None:
    slow = replace(options, backoff_base_s=1e9, backoff_cap_s=1e9, unreachable_cap_s=0.001)
    async with (
        playing(statuses=(503,)) as server,
        PushClient(server.url, token, options=slow) as client,
    ):
        await eventually(lambda: client.state.retry_at is not None)
        await asyncio.sleep(0.05)  # 立刻就来的话早已离开这个状态
        assert client.state.retry_at is not None


async def test_closing_while_waiting_to_reconnect_is_prompt(
    token: str, options: ClientOptions
) -> None:
    slow = replace(options, backoff_base_s=1e9, backoff_cap_s=1e9)
    client = PushClient("http://127.0.0.1:9", token, options=slow)
    waiting = asyncio.create_task(client.wait_connected())
    await asyncio.sleep(0)
    await asyncio.wait_for(client.close(), 5)
    with pytest.raises(NotConnectedError):
        await waiting


async def test_close_says_goodbye_and_may_be_repeated(token: str, options: ClientOptions) -> None:
    async def scene(peer: Peer) -> None:
        await peer.welcome()
        await peer.stay()
        code.set(peer.close_code)

    code = Signal()
    async with playing(scene) as server:
        client = PushClient(server.url, token, options=options)
        await client.wait_connected()
        await client.close()
        await client.close()
        assert await code.wait() == 1000
