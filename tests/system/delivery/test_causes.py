"""没有送达的归哪一类：每一类由真的毛病引出来，处处说的一样。"""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import httpx
import pytest

from meeting_push_bench.tcp_proxy import TcpProxy
from tests.support.eventually import eventually
from tests.support.house import House
from tests.support.people import Person, api_of, device, send
from tests.support.server_process import ServerProcess

from .looking import failures, get, mailbox_size, read_attempts, until

pytestmark = pytest.mark.timeout(240)


async def counted(server: ServerProcess, user: Person) -> dict[str, int]:
    """这个人的，一条也没有的略去。"""
    found = await get(server, user, f"/users/{user.user_id}/delivery-statistics")
    return {cause: count for cause, count in found["failure_causes"].items() if count}


async def test_a_device_that_never_acks_is_the_client(
    server: ServerProcess, admin: Person, alice: Person, bob: Person
) -> None:
    async with device(server.ws_url(bob.user_id), bob) as phone:
        message_id = await send(server.base_url, alice, [bob])
        await read_attempts(phone, 4)
        await until(server, alice, message_id, "failed")
    assert await counted(server, bob) == {"client": 1}
    [failure] = await failures(server, admin, bob)
    assert (failure["failure_reason"], failure["cause"]) == ("no_ack", "client")


@pytest.fixture(scope="module")
def quick_hearted(house: House, server: ServerProcess) -> ServerProcess:
    """心跳很密、却很有耐心的网关。"""
    return house.start("gateway", heartbeat_interval_s=0.2, heartbeat_timeout_s=60)


async def test_a_dead_wire_is_the_network(
    server: ServerProcess, quick_hearted: ServerProcess, admin: Person, alice: Person, bob: Person
) -> None:
    """没有 FIN：两头都以为连着，推的都进了黑洞。"""
    real = quick_hearted.ws_url(bob.user_id)
    port = urlsplit(real).port
    assert port is not None
    async with TcpProxy(port) as proxy:
        url = real.replace(f":{port}/", f":{proxy.port}/")
        async with device(url, bob) as phone:
            await phone.round_trip()
            proxy.swallow()
            message_id = await send(server.base_url, alice, [bob])
            await until(server, alice, message_id, "failed")
            proxy.cut()
    [failure] = await failures(server, admin, bob)
    assert (failure["failure_reason"], failure["cause"]) == ("no_ack", "network")


async def test_a_connection_cut_off_is_the_network(
    server: ServerProcess, alice: Person, bob: Person
) -> None:
    async with device(server.ws_url(bob.user_id), bob) as phone:
        await online(server, bob)
        phone.socket.transport.abort()
    await online(server, bob, yes=False)
    message_id = await send(server.base_url, alice, [bob], expires_in_s=1)
    await until(server, alice, message_id, "expired")
    assert await counted(server, bob) == {"network": 1}


async def test_a_revoked_token_is_authentication(
    server: ServerProcess, admin: Person, alice: Person, bob: Person
) -> None:
    async with device(server.ws_url(bob.user_id), bob) as phone:
        await online(server, bob)
        async with api_of(server.base_url, admin) as api:
            answer = await api.post(f"/users/{bob.user_id}/revoke")
        assert answer.is_success, answer.text
        await asyncio.wait_for(phone.socket.wait_closed(), 10)
    await online(server, bob, admin, yes=False)
    message_id = await send(server.base_url, alice, [bob], expires_in_s=1)
    await until(server, alice, message_id, "expired")
    found = await get(server, admin, f"/users/{bob.user_id}/delivery-statistics")
    assert found["failure_causes"]["authentication"] == 1


async def test_who_was_never_there_and_what_was_cleared_is_policy(
    server: ServerProcess, house: House, alice: Person, bob: Person
) -> None:
    expired = await send(server.base_url, alice, [bob], expires_in_s=1)
    await until(server, alice, expired, "expired")
    await send(server.base_url, alice, [bob])
    await eventually(lambda: mailbox_size(house, bob) == 1)
    async with api_of(server.base_url, bob) as api:
        await api.delete(f"/users/{bob.user_id}/offline-messages")
    assert await counted(server, bob) == {"policy": 2}


async def test_all_are_told_together_and_in_the_metrics(
    server: ServerProcess, admin: Person, alice: Person, bob: Person
) -> None:
    before = await get(server, admin, "/deliveries/failures/causes", window_s=3_600)
    message_id = await send(server.base_url, alice, [bob], expires_in_s=1)
    await until(server, alice, message_id, "expired")
    after = await get(server, admin, "/deliveries/failures/causes", window_s=3_600)
    assert after["causes"]["policy"] == before["causes"]["policy"] + 1
    assert after["reasons"]["expired"] == before["reasons"].get("expired", 0) + 1
    assert set(after["causes"]) == {"network", "authentication", "client", "system", "policy"}

    async def told() -> bool:
        async with httpx.AsyncClient() as client:
            text = (await client.get(f"{server.base_url}/metrics")).text
        return 'meeting_push_recipients_undelivered_total{cause="policy"} 0.0' not in text

    await eventually(told)


async def online(
    server: ServerProcess, user: Person, viewer: Person | None = None, *, yes: bool = True
) -> None:
    """在线状态写进了 Redis。"""

    async def reached() -> bool:
        found = await get(server, viewer or user, f"/presence/users/{user.user_id}")
        return bool(found["online"]) is yes

    await eventually(reached)
