"""D7：``deploy/proxies/`` 照抄就能用，两个真的节点在后面。

页面、会议、推送、事件流、地址、一个节点离开。
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from uuid import uuid4

import msgspec
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from meeting_push.settings import Settings
from tests.support.event_streams import event_stream
from tests.support.eventually import eventually
from tests.support.people import Device, Person, api_of, device, register, send
from tests.support.proxies import EXAMPLES, PROXIES, Proxy, in_front
from tests.support.redis_server import RedisServer
from tests.support.server_process import ServerProcess

SETTINGS = {"trusted_proxies": '["127.0.0.1/32"]', "drain_window_s": 1, "shutdown_grace_s": 2}


@dataclass
class Site:
    """``nodes``：代理后面的两个，都是 all。"""

    address: str
    nodes: list[ServerProcess]

    def ws_url(self, person: Person) -> str:
        return f"{self.address.replace('http', 'ws')}/ws/user/{person.user_id}/messages"


def _marked(proxy: Proxy) -> object:
    missing = pytest.mark.skipif(proxy.binary is None, reason=f"no {proxy.name}")
    return pytest.param(proxy, id=proxy.name, marks=missing)


@pytest.fixture(scope="module")
def nodes(
    tmp_path_factory: pytest.TempPathFactory, redis7_server: RedisServer
) -> Iterator[list[ServerProcess]]:
    folder = tmp_path_factory.mktemp("nodes")
    settings = SETTINGS | {"key_prefix": "proxies:"}
    with (
        ServerProcess(folder, redis_url=redis7_server.url, settings=settings) as one,
        ServerProcess(folder, redis_url=redis7_server.url, settings=settings) as other,
    ):
        yield [one, other]


@pytest.fixture(scope="module", params=[_marked(proxy) for proxy in PROXIES])
def site(
    request: pytest.FixtureRequest,
    nodes: list[ServerProcess],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    ports = [node.port for node in nodes]
    folder = tmp_path_factory.mktemp(request.param.name)
    with in_front(request.param, folder, ports, ports) as address:
        yield Site(address, nodes)


@pytest.fixture
async def person(site: Site) -> Person:
    return await register(site.address, f"nina-{uuid4().hex[:12]}")


async def first_frame(url: str, person: Person, origin: str) -> dict[str, object]:
    headers = {"Authorization": f"Bearer {person.token}"}
    async with connect(url, additional_headers=headers, origin=origin) as socket:  # type: ignore[arg-type]
        frame: dict[str, object] = msgspec.json.decode(await socket.recv())
        return frame


async def test_d7_a_page_of_the_same_origin_connects_through_it(site: Site, person: Person) -> None:
    assert (await first_frame(site.ws_url(person), person, site.address))["type"] == "welcome"


async def test_d7_the_meeting_is_found_behind_it(site: Site, person: Person) -> None:
    async with api_of(site.address, person) as api:
        body = {"title": "through a proxy", "participant_ids": []}
        answer = await api.post("/meetings", json=body)
    url = f"{site.address.replace('http', 'ws')}/ws/meeting/{answer.json()['meeting_id']}"
    assert (await first_frame(url, person, site.address))["type"] == "welcome"


async def test_what_is_sent_through_it_is_pushed_through_it_and_acked(
    site: Site, person: Person
) -> None:
    async with device(site.ws_url(person), person) as phone:
        sent = await send(site.address, person, [person])
        assert (await phone.next_message())["message_id"] == sent
        await phone.ack(sent)
        await phone.round_trip()


async def test_an_event_stream_comes_through_it_at_once(site: Site, person: Person) -> None:
    url = f"{site.address}/sse/user/{person.user_id}/messages"
    async with event_stream(url, person.headers) as stream:
        assert (await stream.frame())["type"] == "welcome"
        sent = await send(site.address, person, [person])
        [message] = await stream.messages(1)
        assert message["message_id"] == sent
        async with api_of(site.address, person) as api:
            answer = await api.post("/acks", json={"message_ids": [sent]})
        assert answer.json() == {"accepted": 1, "unknown": []}


async def test_the_address_is_the_clients_and_not_what_he_says_it_is(
    site: Site, person: Person
) -> None:
    """客户端自己写的 X-Forwarded-For 在代理写的左边，或被它换掉。"""
    headers = {"Authorization": f"Bearer {person.token}", "X-Forwarded-For": "203.0.113.7"}
    here = ("127.9.9.9", 0)
    async with (
        connect(site.ws_url(person), additional_headers=headers, local_addr=here) as socket,
        api_of(site.address, person) as api,
    ):
        await socket.recv()

        async def addresses() -> set[str]:
            answer = await api.get(f"/presence/users/{person.user_id}")
            return {one["ip_address"] for one in answer.json()["connections"]}

        assert await eventually(addresses) == {here[0]}


@pytest.mark.timeout(120)
async def test_a_node_that_leaves_costs_nobody_a_message(site: Site, person: Person) -> None:
    """它请人重连，代理把他们送到另一个；期间发的收得到。"""
    async with AsyncExitStack() as stack:
        phones = [
            await stack.enter_async_context(device(site.ws_url(person), person)) for _ in range(4)
        ]
        leaving = asyncio.create_task(asyncio.to_thread(site.nodes[0].terminate))
        try:
            codes = [await _code(phone, leaving) for phone in phones]
            assert set(codes) == {None, 4000}
            sent = await _sent(site, person)
            phone = await eventually(lambda: _reconnected(stack, site, person), 15)
            assert phone is not None
            assert (await phone.next_message())["message_id"] == sent
            assert await leaving == 0
        finally:
            await leaving
            site.nodes[0].start()


async def _code(phone: Device, leaving: asyncio.Task[int]) -> int | None:
    """连接随那个节点结束的关闭码；在另一个节点上的不动，是 None。"""
    await asyncio.wait([phone.reader, leaving], return_when=asyncio.FIRST_COMPLETED)
    return phone.socket.close_code


async def _sent(site: Site, person: Person) -> str:
    """代理还没有看出它在离开时，503 是临时的：带着同一个幂等键再来。"""
    body = {"recipient_ids": [person.user_id], "title": "t", "content": "c"}
    headers = {"Idempotency-Key": str(uuid4())}
    async with api_of(site.address, person) as api:

        async def answered() -> str | None:
            answer = await api.post("/messages", json=body, headers=headers)
            return str(answer.json()["message_id"]) if answer.status_code == 202 else None

        return str(await eventually(answered, 15))


async def _reconnected(stack: AsyncExitStack, site: Site, person: Person) -> Device | None:
    try:
        return await stack.enter_async_context(device(site.ws_url(person), person))
    except (InvalidStatus, ConnectionClosed):
        return None


@pytest.mark.parametrize("proxy", PROXIES, ids=lambda proxy: proxy.name)
def test_each_waits_longer_than_two_heartbeats(proxy: Proxy) -> None:
    """Caddy 自己没有空闲时限。"""
    text = (EXAMPLES / proxy.example).read_text()
    waits = re.findall(r"^\s*(?:proxy_read_timeout|timeout tunnel)\s+(\d+)s", text, re.MULTILINE)
    assert waits or proxy.name == "caddy"
    assert all(int(wait) > 2 * Settings().edge.heartbeat_interval_s for wait in waits)
