"""令牌：登录一次，按时刷新。"""

from __future__ import annotations

import asyncio

import pytest

from meeting_push.client import ApiError, RestClient, ServerUnreachableError, TokenKeeper
from tests.support.clocks import Monotonic

from .scripted_api import Reply, ScriptedApi, answering, error


def tokens(number: int) -> Reply:
    return Reply(
        200,
        {
            "access_token": f"access-{number}",
            "refresh_token": f"refresh-{number}",
            "token_type": "bearer",
            "expires_in_s": 900,
            "user_id": 1,
        },
    )


@pytest.fixture
def clock() -> Monotonic:
    return Monotonic(1_000.0)


def keeper(api: ScriptedApi, clock: Monotonic) -> TokenKeeper:
    return TokenKeeper(RestClient(api.url), "alice", "pw", clock=clock)


async def test_logs_in_once_however_many_ask(clock: Monotonic) -> None:
    async with answering(tokens(1)) as api:
        keep = keeper(api, clock)
        assert set(await asyncio.gather(*(keep() for _ in range(5)))) == {"access-1"}
        assert [asked.body for asked in api.asked] == [{"username": "alice", "password": "pw"}]


async def test_refreshes_before_the_server_warns(clock: Monotonic) -> None:
    """服务器提前 60 秒发 ``token_expiring``：那时给出的必须已经是新的。"""
    async with answering(tokens(1), tokens(2)) as api:
        keep = keeper(api, clock)
        await keep()
        clock.now += 900 - 61
        assert await keep() == "access-2"
        assert api.asked[1].body == {"refresh_token": "refresh-1"}


async def test_the_refresh_token_rotates(clock: Monotonic) -> None:
    async with answering(tokens(1), tokens(2), tokens(3)) as api:
        keep = keeper(api, clock)
        for _ in range(3):
            await keep()
            clock.now += 900
        assert api.asked[2].body == {"refresh_token": "refresh-2"}


async def test_logs_in_again_when_the_refresh_token_is_dead(clock: Monotonic) -> None:
    async with answering(tokens(1), error(401, "revoked"), tokens(2)) as api:
        keep = keeper(api, clock)
        await keep()
        clock.now += 900
        assert await keep() == "access-2"
        assert api.asked[2].path == "/api/v1/auth/login"


async def test_logs_in_again_after_a_refresh_without_answer(clock: Monotonic) -> None:
    """没有回答的刷新可能已经用掉了旧的刷新令牌，再用会吊销整族。"""
    async with answering(tokens(1), Reply(0), tokens(2)) as api:
        keep = keeper(api, clock)
        await keep()
        clock.now += 900
        with pytest.raises(ServerUnreachableError):
            await keep()
        await keep()
        assert api.asked[2].path == "/api/v1/auth/login"


async def test_a_refresh_refused_for_now_keeps_the_refresh_token(clock: Monotonic) -> None:
    async with answering(tokens(1), error(429, "rate_limited", temporary=True), tokens(2)) as api:
        keep = keeper(api, clock)
        await keep()
        clock.now += 900
        with pytest.raises(ApiError):
            await keep()
        assert await keep() == "access-2"
        assert api.asked[2].body == {"refresh_token": "refresh-1"}


async def test_sec_2_tokens_do_not_show_in_repr(clock: Monotonic) -> None:
    async with answering(tokens(1)) as api:
        pair = await RestClient(api.url).login("alice", "pw")
        assert "access-1" not in repr(pair)
        assert "refresh-1" not in repr(pair)
