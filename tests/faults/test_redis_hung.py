"""Redis 挂着不答（SIGSTOP）：只需要 SQL 的都不等它。"""

from __future__ import annotations

import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import pytest

from tests.support.people import Person, api_of, register, send

from .fleet import Fleet, person

#: 契约：POST 的 P95。
P95_S = 0.1


@pytest.fixture
async def alice(fleet: Fleet) -> Person:
    return await register(fleet.api.url, "alice")


@pytest.fixture
async def hung(fleet: Fleet, alice: Person) -> AsyncIterator[Fleet]:
    await send(fleet.api.url, alice, [alice])
    with fleet.mended():
        fleet.redis.pause()
        try:
            yield fleet
        finally:
            fleet.redis.resume()


async def p95(act: Callable[[], Awaitable[httpx.Response]], times: int, *statuses: int) -> float:
    taken = []
    for _ in range(times):
        start = time.monotonic()
        answer = await act()
        taken.append(time.monotonic() - start)
        assert answer.status_code in statuses, answer.text
    return statistics.quantiles(taken, n=20)[-1]


async def test_a_message_is_accepted_at_once(hung: Fleet, alice: Person) -> None:
    """B5、E9：挂着的整段时间里（旧连接还在等，到断开，到连不上），P95 ≤ 100 ms。"""
    body = {"recipient_ids": [alice.user_id], "title": "t", "content": "c"}
    async with api_of(hung.api.url, alice) as api:
        assert await p95(lambda: api.post("/messages", json=body), 300, 202) <= P95_S


async def test_reading_and_broadcasting_do_not_wait(hung: Fleet, alice: Person) -> None:
    """E9：同一类的别的门：广播只要 SQL，已读顺便告诉别的设备。"""
    notice = {"title": "t", "content": "c"}
    async with api_of(hung.api.url, person(alice.user_id, "admin")) as api:
        assert (
            await p95(lambda: api.post("/messages/broadcast", json=notice), 20, 202) < 1
        )  # 只看等不等
        inbox = (await api.get("/messages")).json()["items"]
        read = {"message_ids": [inbox[0]["message_id"]]}
        start = time.monotonic()
        assert (await api.post("/messages/read", json=read)).status_code == 200
        assert time.monotonic() - start < 1  # 从前是 Redis 的超时，5 秒以上


async def test_signing_in_does_not_wait(hung: Fleet) -> None:
    """E9：登录失败的次数合起来数，是顺便的事。"""
    wrong = {"username": "nobody", "password": "wrong horse battery"}
    start = time.monotonic()
    async with api_of(hung.api.url, person(1)) as api:
        assert (await api.post("/auth/login", json=wrong)).status_code == 401
    assert time.monotonic() - start < 2
