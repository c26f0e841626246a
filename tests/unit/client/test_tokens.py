"""令牌：怎么带去，什么时候换新的，绝不写进日志。"""

from __future__ import annotations

import logging
import time
from dataclasses import replace

import pytest
from loguru import logger

from meeting_push.client import (
    ApiError,
    ClientOptions,
    PushClient,
    PushRefusedError,
    ServerUnreachableError,
    TokenUnreadableError,
)
from tests.support.scripted_server import Peer, Signal, playing, stay
from tests.support.sdk import unsigned_jwt


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


async def test_c5_a_fixed_token_that_still_lasts_is_tried_again(options: ClientOptions) -> None:
    """4004 也是“还没到时候”：钟会走到。"""

    async def too_early(peer: Peer) -> None:
        await peer.close(4004, "token_expired")

    token = unsigned_jwt(sub="1", exp=time.time() + 600)
    async with (
        playing(too_early, stay) as server,
        PushClient(server.url, token, options=options) as client,
    ):
        await client.wait_connected()
        assert len(server.peers) == 2


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
