"""谁可以连上来：令牌的三种给法、每个失败码、来源、路径。"""

from __future__ import annotations

import asyncio

import pytest
from loguru import logger
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Origin, Subprotocol

from meeting_push.errors import (
    MeetingPushError,
    RedisUnavailableError,
    TokenExpiredError,
    TokenNotYetValidError,
    TokenRevokedError,
)
from tests.support.edge_world import Client, World

from .harness import EdgeHarness


async def close_of(world: World, user_id: int, query: str = "", **options: object) -> int:
    async with connect(world.url(user_id, query), **options) as websocket:  # type: ignore[arg-type]
        code, _ = await Client(websocket).closed()
        return code


async def status_of(url: str, **options: object) -> int:
    with pytest.raises(InvalidStatus) as refused:
        await connect(url, **options)  # type: ignore[arg-type]
    return refused.value.response.status_code


class AuthenticationBehaviour(EdgeHarness):
    async def test_token_in_the_authorization_header(self) -> None:
        async with self.world() as world:
            headers = {"Authorization": f"Bearer {world.token(1)}"}
            async with connect(world.url(1), additional_headers=headers) as websocket:
                assert (await Client(websocket).read())["type"] == "welcome"

    async def test_token_in_the_subprotocol_is_not_echoed(self) -> None:
        async with self.world() as world, world.live(1) as client:
            assert client.websocket.subprotocol == "meeting-push.v1"

    async def test_token_in_the_query(self) -> None:
        async with self.world() as world:
            query = f"?token={world.token(1)}"
            async with connect(world.url(1, query)) as websocket:
                assert websocket.subprotocol is None
                assert (await Client(websocket).read())["type"] == "welcome"

    async def test_the_header_wins_over_the_query(self) -> None:
        async with self.world() as world:
            headers = {"Authorization": "Bearer nonsense"}
            query = f"?token={world.token(1)}"
            assert await close_of(world, 1, query, additional_headers=headers) == 4500

    async def test_no_token_is_4500(self) -> None:
        async with self.world() as world:
            assert await close_of(world, 1) == 4500

    async def test_the_close_reason_is_the_name_of_the_code(self) -> None:
        async with self.world() as world, world.client(1, token="nonsense") as client:
            assert await client.closed() == (4500, "invalid_token")

    @pytest.mark.parametrize(
        ("failure", "code"),
        [
            (TokenExpiredError, 4004),
            (TokenNotYetValidError, 4004),
            (TokenRevokedError, 4502),
            (RedisUnavailableError, 4007),
        ],
    )
    async def test_each_failure_has_its_code(
        self, failure: type[MeetingPushError], code: int
    ) -> None:
        async with self.world() as world:
            world.verifier.tokens["t"] = failure("made here: its traceback keeps the connection")
            assert await close_of(world, 1, "?token=t") == code

    async def test_the_token_of_another_user_is_4501(self) -> None:
        async with self.world() as world:
            assert await close_of(world, 1, f"?token={world.token(2)}") == 4501
            assert world.manager.user_connections == {}

    async def test_two_different_tokens_prove_nothing(self) -> None:
        async with self.world() as world:
            query = f"?token={world.token(1)}&token={world.token(1)}"
            assert await close_of(world, 1, query) == 4500

    @pytest.mark.parametrize("token", ["%ff%fe", "%zz", "", "%E4%BD%A0"])
    async def test_nonsense_in_the_query_is_4500(self, token: str) -> None:
        async with self.world() as world:
            assert await close_of(world, 1, f"?token={token}") == 4500

    @pytest.mark.parametrize("user", ["01", "-1", "1e3", "0", "x", str(2**63), "9" * 400, "%31x"])
    async def test_what_is_not_a_user_id_is_404(self, user: str) -> None:
        async with self.world() as world:
            assert await status_of(world.url(user)) == 404

    async def test_a_forbidden_origin_is_403_before_the_upgrade(self) -> None:
        async with self.world() as world:
            url = world.url(1, f"?token={world.token(1)}")
            assert await status_of(url, origin=Origin("https://evil.example")) == 403
            assert world.manager.statistics().origins_refused == 1
            assert world.manager.statistics().refusals == {"foreign_origin": 1}

    async def test_who_is_refused_is_counted_by_cause(self) -> None:
        async with self.world() as world:
            assert await close_of(world, 1, "?token=nonsense") == 4500
            assert await close_of(world, 2, f"?token={world.token(1)}") == 4501
            found = world.manager.statistics().refusals
            assert found == {"invalid_token": 1, "forbidden": 1}

    async def test_the_same_origin_is_allowed(self) -> None:
        async with self.world() as world:
            origin = Origin(f"http://127.0.0.1:{world.port}")
            async with world.live(1, origin=origin) as client:
                assert client.welcome["user_id"] == 1

    async def test_a_listed_origin_is_allowed(self) -> None:
        origin = "https://app.example"
        async with (
            self.world(allowed_origins=(origin,)) as world,
            world.live(1, origin=Origin(origin)) as client,
        ):
            assert client.welcome["user_id"] == 1

    async def test_a_failure_is_logged_without_the_token(self) -> None:
        lines: list[str] = []
        sink = logger.add(lines.append, format="{message} {extra}")
        try:
            async with self.world() as world:
                await close_of(world, 1, "?token=very-secret")
        finally:
            logger.remove(sink)
        assert any("ws_auth_failed" in line for line in lines)
        assert not any("very-secret" in line for line in lines)

    async def test_the_token_is_not_in_the_servers_log(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO")
        async with self.world() as world:
            query = f"?token={world.token(1, name='very-secret')}"
            async with connect(world.url(1, query)) as websocket:
                await Client(websocket).read()
        assert "very-secret" not in caplog.text

    async def test_a_browser_that_keeps_alive_may_upgrade(self) -> None:
        """Firefox 发 ``Connection: keep-alive, Upgrade``。"""
        async with self.world() as world:
            request = (
                f"GET /ws/user/1/messages HTTP/1.1\r\nHost: 127.0.0.1:{world.port}\r\n"
                "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
                "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
            assert await raw_status(world, request.encode()) == b"101"

    async def test_a_request_in_pieces_is_understood(self) -> None:
        async with self.world() as world:
            request = (
                f"GET /ws/user/1/messages?device_info={'x' * 6000} HTTP/1.1\r\n"
                f"Host: 127.0.0.1:{world.port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            ).encode()
            assert await raw_status(world, request[:3], request[3:5000], request[5000:]) == b"101"

    async def test_only_the_offered_subprotocol_is_echoed(self) -> None:
        async with self.world() as world:
            headers = {"Authorization": f"Bearer {world.token(1)}"}
            offered = [Subprotocol("something.else")]
            async with connect(
                world.url(1), additional_headers=headers, subprotocols=offered
            ) as websocket:
                assert websocket.subprotocol is None


async def raw_status(world: World, *pieces: bytes) -> bytes:
    """把请求分几段写出去，返回状态码。"""
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0)
    status = (await reader.readline()).split(b" ")[1]
    writer.close()
    await writer.wait_closed()
    return status
