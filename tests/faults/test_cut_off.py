"""E2：一个网关独自够不到 Redis，就把客户端交给好的；谁都够不到则留着（CON-4）。"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from uuid import uuid4

import pytest
from websockets.exceptions import ConnectionClosed

from tests.support.event_streams import event_stream
from tests.support.eventually import eventually
from tests.support.people import Device, Person, device, register, send

from .faults import redis_gone
from .fleet import Fleet, becomes, running_fleet


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    try:
        with running_fleet(tmp_path_factory.mktemp("cut"), cut_off_s=2) as running:
            yield running
    except FileNotFoundError as missing:
        pytest.skip(str(missing))


@pytest.fixture
async def bob(fleet: Fleet) -> Person:
    return await register(fleet.api.url, "bob")


async def close_code(phone: Device, within: float) -> int | None:
    try:
        await asyncio.wait_for(asyncio.shield(phone.reader), within)
    except ConnectionClosed as closed:
        return None if closed.rcvd is None else closed.rcvd.code
    except TimeoutError:
        return None
    return 1000


@pytest.mark.parametrize("kind", ["refuse", "swallow"])
async def test_clients_of_a_gateway_that_alone_is_cut_off_are_handed_over(
    fleet: Fleet, bob: Person, kind: str
) -> None:
    """E2：拒绝与半开都算；新来的也请走，回来了又接。"""
    alone, other = fleet.gateways
    with fleet.mended():
        async with (
            device(alone.server.ws_url(bob.user_id), bob) as phone,
            device(other.server.ws_url(bob.user_id), bob) as desk,
        ):
            getattr(alone.redis, kind)()
            assert await close_code(phone, 25) == 4007
            assert await close_code(desk, 0.1) is None
        with pytest.raises((ConnectionClosed, AssertionError)):
            async with device(alone.server.ws_url(bob.user_id), bob):
                pass
        assert "node_cut_off" in alone.server.output
        alone.redis.release()
        await asyncio.to_thread(becomes, alone.server, 200)
        async with device(alone.server.ws_url(bob.user_id), bob):
            pass


async def test_streams_of_a_gateway_that_alone_is_cut_off_are_handed_over_too(
    fleet: Fleet,
) -> None:
    """E2：SSE 的也请走，断着时新来的也接不上，回来了又接。"""
    alone, other = fleet.gateways
    bob = await register(fleet.api.url, f"bob-{uuid4().hex[:8]}")
    path = f"/sse/user/{bob.user_id}/messages"
    with fleet.mended():
        async with (
            event_stream(alone.url + path, bob.headers) as stream,
            event_stream(other.url + path, bob.headers) as elsewhere,
        ):
            assert [(await one.frame())["type"] for one in (stream, elsewhere)] == ["welcome"] * 2
            alone.redis.refuse()
            assert await stream.closed() == {"code": 4007, "name": "node_unhealthy"}
            async with event_stream(alone.url + path, bob.headers) as refused:
                body = await refused.response.aread()
            assert refused.response.status_code == 503
            assert b'"unavailable"' in body
            sent = await send(fleet.api.url, bob, [bob])
            [message] = await elsewhere.messages(1)
            assert message["message_id"] == sent
        alone.redis.release()

        async def taken_in() -> bool:
            async with event_stream(alone.url + path, bob.headers) as stream:
                return stream.response.status_code == 200

        await eventually(taken_in, 25)


async def test_clients_stay_when_nobody_has_redis(fleet: Fleet, bob: Person) -> None:
    """E2、CON-4：Redis 对谁都不在，套接字留着。"""
    with fleet.mended():
        async with device(fleet.gateways[0].server.ws_url(bob.user_id), bob) as phone:
            with redis_gone(fleet):
                await asyncio.to_thread(becomes, fleet.gateways[0].server, 503, "unreachable")
                assert await close_code(phone, 8) is None  # 4 倍于 cut_off_s
            await asyncio.to_thread(becomes, fleet.gateways[0].server, 200)
            assert await close_code(phone, 0.1) is None
