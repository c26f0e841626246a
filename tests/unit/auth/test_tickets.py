"""票据在 Redis 里：只用一次、不比令牌活得久、看不出是什么、一个人占不满。"""

from __future__ import annotations

import pytest

from meeting_push.auth.tickets import WsTickets
from meeting_push.errors import InvalidTokenError, RateLimitedError
from meeting_push.model import Principal
from meeting_push.redis.redis_service import RedisService

NOW = 1_800_000_000_000


def principal(expires_at: int = NOW + 600_000) -> Principal:
    return Principal(7, "user", NOW, expires_at, "session", "token", "名字")


async def test_a_ticket_brings_back_exactly_who_asked_for_it(redis: RedisService) -> None:
    tickets = WsTickets(redis, 30, lambda: NOW)
    ticket = (await tickets.issue(principal())).ticket
    assert await tickets.redeem(ticket) == principal()
    with pytest.raises(InvalidTokenError):
        await tickets.redeem(ticket)


async def test_a_ticket_does_not_outlive_its_token(redis: RedisService) -> None:
    issued = await WsTickets(redis, 30, lambda: NOW).issue(principal(NOW + 5_000))
    assert issued.expires_in_s == 5
    (key,) = [key async for key in redis.client.scan_iter(f"{redis.keys.prefix}*")]
    assert 0 < await redis.client.pttl(key) <= 5_000


async def test_sec_2_the_ticket_itself_is_not_in_redis(redis: RedisService) -> None:
    issued = await WsTickets(redis, 30, lambda: NOW).issue(principal())
    (key,) = [key async for key in redis.client.scan_iter(f"{redis.keys.prefix}*")]
    assert issued.ticket not in f"{key!r} {await redis.client.get(key)!r} {issued!r}"


async def test_one_user_can_not_fill_redis_with_tickets(redis: RedisService) -> None:
    tickets = WsTickets(redis, 30, lambda: NOW)
    for _ in range(50):
        await tickets.issue(principal())
    with pytest.raises(RateLimitedError):
        await tickets.issue(principal())
