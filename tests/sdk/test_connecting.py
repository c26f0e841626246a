"""连上、断了再连、不许再连。"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

import pytest
from loguru import logger

from meeting_push.client import (
    ApiError,
    ClientOptions,
    ClientState,
    HandshakeRejectedError,
    NotConnectedError,
    PushClient,
    PushRefusedError,
    ServerUnreachableError,
    TokenUnreadableError,
)
from meeting_push.errors import ConfigurationError

from .conftest import unsigned_jwt
from .scripted_server import Peer, Signal, new_message, playing, stay


async def test_the_token_travels_as_subprotocol_never_in_the_url(
    token: str, options: ClientOptions
) -> None:
    async with playing() as server, PushClient(server.url, token, options=options) as client:
        await client.wait_connected()
        [peer] = server.peers
        assert peer.path.path == "/ws/user/1/messages"
        assert peer.headers["Sec-WebSocket-Protocol"] == f"meeting-push.v1, bearer.{token}"
        assert token not in peer.path.query
        assert "Sec-WebSocket-Extensions" not in peer.headers


async def test_sec_2_no_log_shows_the_token(
    token: str, options: ClientOptions, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    written: list[str] = []
    sink = logger.add(lambda text: written.append(str(text)), level="TRACE", serialize=True)
    try:
        async with playing() as server, PushClient(server.url, token, options=options) as client:
            await client.wait_connected()
    finally:
        logger.remove(sink)
    ours = [r.getMessage() for r in caplog.records if r.name == "meeting_push.client.websockets"]
    assert token not in "".join(written + ours)
    assert "push_connected" in "".join(written)


async def test_a_new_device_presents_its_id_and_no_position(
    token: str, options: ClientOptions
) -> None:
    async with (
        playing() as server,
        PushClient(server.url, token, device_info="cli 1.0", options=options) as client,
    ):
        await client.wait_connected()
        assert server.peers[0].query == {"device_id": client.device_id, "device_info": "cli 1.0"}


async def test_the_given_user_id_wins_over_the_token(token: str, options: ClientOptions) -> None:
    async with (
        playing() as server,
        PushClient(server.url, "opaque", user_id=7, options=options) as client,
    ):
        await client.wait_connected()
        assert server.peers[0].path.path == "/ws/user/7/messages"


async def test_the_user_id_claim_can_be_named(options: ClientOptions) -> None:
    token = unsigned_jwt(uid=9)
    named = replace(options, user_id_claim="uid")
    async with playing() as server, PushClient(server.url, token, options=named) as client:
        await client.wait_connected()
        assert server.peers[0].path.path == "/ws/user/9/messages"


async def test_an_opaque_token_without_user_id_is_an_error(options: ClientOptions) -> None:
    with pytest.raises(TokenUnreadableError):
        await PushClient("http://127.0.0.1:9", "opaque", options=options).wait_connected()


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
    assert states == [ClientState.IDLE, ClientState.CONNECTED, ClientState.CLOSED]
    assert not client.connected.is_set()


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
    async with playing(statuses=(status,)) as server:
        with pytest.raises(HandshakeRejectedError) as caught:
            await PushClient(server.url, token, options=options).wait_connected()
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
        assert client.state is ClientState.CLOSED
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


async def test_every_attempt_asks_for_a_token(options: ClientOptions) -> None:
    async def expired(peer: Peer) -> None:
        await peer.close(4004, "token_expired")

    tokens = [unsigned_jwt(sub="1", n=n) for n in range(3)]
    asked = iter(tokens)

    async def fresh() -> str:
        return next(asked)

    async with (
        playing(expired, expired, stay) as server,
        PushClient(server.url, fresh, options=options) as client,
    ):
        await client.wait_connected()
        assert [peer.token for peer in server.peers] == tokens


async def test_a_plain_function_will_do_as_token_callback(
    token: str, options: ClientOptions
) -> None:
    async with playing() as server, PushClient(server.url, lambda: token, options=options) as c:
        await c.wait_connected()
        assert server.peers[0].token == token


async def test_a_fixed_token_that_expired_is_final(token: str, options: ClientOptions) -> None:
    async def expired(peer: Peer) -> None:
        await peer.close(4004, "token_expired")

    async with playing(expired) as server:
        with pytest.raises(PushRefusedError) as caught:
            await PushClient(server.url, token, options=options).wait_connected()
        assert caught.value.close_code == 4004


async def test_a_token_callback_that_fails_for_now_is_asked_again(
    token: str, options: ClientOptions
) -> None:
    failures = [ServerUnreachableError("no answer"), OSError("no route")]

    async def fresh() -> str:
        if failures:
            raise failures.pop()
        return token

    async with playing() as server, PushClient(server.url, fresh, options=options) as client:
        await client.wait_connected()
    assert failures == []


async def test_a_token_callback_that_fails_for_good_stops_the_client(
    options: ClientOptions,
) -> None:
    def fresh() -> str:
        raise ApiError(401, "bad_credentials", "wrong password", temporary=False)

    async with playing() as server:
        with pytest.raises(ApiError):
            await PushClient(server.url, fresh, options=options).wait_connected()
        assert server.peers == []


async def test_an_expiring_token_is_replaced_in_band(options: ClientOptions) -> None:
    async def scene(peer: Peer) -> None:
        await peer.welcome()
        await peer.send({"type": "token_expiring", "token_expires_at": 1})
        refreshed.set((await peer.receive("refresh_token"))["token"])
        await peer.send({"type": "token_refreshed", "token_expires_at": 2})
        await peer.stay()

    tokens = iter(unsigned_jwt(sub="1", n=n) for n in range(2))
    refreshed = Signal()
    async with (
        playing(scene) as server,
        PushClient(server.url, lambda: next(tokens), options=options) as client,
    ):
        assert await refreshed.wait() == unsigned_jwt(sub="1", n=1)
        assert client.connected.is_set()
        assert len(server.peers) == 1


async def test_a_failing_refresh_leaves_the_connection_alone(
    token: str, options: ClientOptions
) -> None:
    async def scene(peer: Peer) -> None:
        await peer.welcome(heartbeat_interval_s=0.01)
        await peer.send({"type": "token_expiring", "token_expires_at": 1})
        await failed.wait()
        await peer.receive("heartbeat")
        alive.set()
        await peer.stay()

    failed, alive = Signal(), Signal()
    calls = 0

    def fresh() -> str:
        nonlocal calls
        calls += 1
        if calls > 1:
            failed.set()
            raise ApiError(401, "bad_credentials", "wrong password", temporary=False)
        return token

    async with playing(scene) as server, PushClient(server.url, fresh, options=options) as client:
        await alive.wait()
        assert client.connected.is_set()


async def test_lesson_1_a_draining_server_tells_the_window(
    token: str, options: ClientOptions
) -> None:
    """窗口是 0，而平常的退避长到测试等不起：连上了就说明听了服务器的。"""

    async def draining(peer: Peer) -> None:
        await peer.welcome()
        await peer.send({"type": "notice", "code": "draining", "reconnect_after_ms": 0})
        await peer.close(4000, "server_draining")

    async def second(peer: Peer) -> None:
        back.set()
        await stay(peer)

    back = Signal()
    slow = replace(options, backoff_base_s=1e9, backoff_cap_s=1e9)
    async with playing(draining, second) as server, PushClient(server.url, token, options=slow):
        await back.wait()


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
        code.set(peer._socket.close_code)

    code = Signal()
    async with playing(scene) as server:
        client = PushClient(server.url, token, options=options)
        await client.wait_connected()
        await client.close()
        await client.close()
        assert await code.wait() == 1000


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
