"""令牌在一条活着的连接上：将要过期、在线更换、过期。用真实的令牌。"""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.support.house import House

from .visitors import Lines, post, rest_code, sign, stranger


async def test_a_short_token_is_warned_at_once_and_closed_when_it_expires(
    house: House, lines: Lines
) -> None:
    line = await lines.open(house.near, stranger(802_001, ttl_s=2))
    warning = await line.read()
    assert warning["type"] == "token_expiring"
    assert warning["token_expires_at"] == line.welcome["token_expires_at"]
    assert await line.closed(5) == 4004


async def test_a_fresh_token_keeps_the_socket(house: House, lines: Lines) -> None:
    user_id = 802_002
    line = await lines.open(house.near, stranger(user_id, ttl_s=2))
    assert (await line.read())["type"] == "token_expiring"
    answer = await line.ask(type="refresh_token", token=sign(user_id, ttl_s=62), request_id="r")
    assert (answer["type"], answer["request_id"]) == ("token_refreshed", "r")
    assert answer["token_expires_at"] > line.welcome["token_expires_at"]
    # 旧令牌过期、新令牌只剩一分钟时的提醒：旧的已不作数
    again = await line.read()
    assert (again["type"], again["token_expires_at"]) == (
        "token_expiring",
        answer["token_expires_at"],
    )


async def test_after_a_refresh_it_is_the_new_token_that_can_be_revoked(
    house: House, lines: Lines
) -> None:
    user_id = 802_003
    old, new = sign(user_id, jti="old"), sign(user_id, jti="new")
    line = await lines.knock(house.near.ws_url(user_id), old)
    await line.read()
    assert (await line.ask(type="refresh_token", token=new))["type"] == "token_refreshed"
    await post(house.far, "/auth/logout", old)
    assert (await line.ask(type="heartbeat", timestamp=1))["type"] == "heartbeat_ack"
    await post(house.far, "/auth/logout", new)
    assert await line.closed(2.5) == 4502


@pytest.mark.parametrize("kind", ["garbage", "expired", "early", "foreign", "revoked"])
async def test_a_bad_token_closes_the_socket(house: House, lines: Lines, kind: str) -> None:
    user_id = 802_004
    token, code = {
        "garbage": ("nonsense", 4500),
        "expired": (sign(user_id, ttl_s=-60), 4004),
        "early": (sign(user_id, iat=time.time() + 30), 4004),
        "foreign": (sign(user_id + 1), 4501),
        "revoked": (sign(user_id, jti="dead"), 4502),
    }[kind]
    if kind == "revoked":
        await post(house.near, "/auth/logout", token)
    line = await lines.open(house.near, stranger(user_id))
    await line.socket.send(f'{{"type":"refresh_token","token":"{token}"}}')
    assert await line.closed() == code


@pytest.mark.parametrize("claim", ["iat", "nbf"])
async def test_c5_a_token_that_is_minutes_too_early_may_come_back(
    house: House, lines: Lines, claim: str
) -> None:
    user_id = 802_005
    claims: dict[str, Any] = {claim: time.time() + 200}
    early = sign(user_id, **claims)
    line = await lines.knock(house.near.ws_url(user_id), early)
    assert await line.closed() == 4004
    assert await rest_code(house.near, early) == "token_not_yet_valid"
