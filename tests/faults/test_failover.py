"""Sentinel 看着的主在负载下没有了（杀掉、挂住）：收下的一条不丢，谁也不重启，几秒之内又推送；
提升的副本缺了数据就换代次，缺的从 SQL 再来。
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx
import pytest
from sqlalchemy import text

from meeting_push.client import PushClient
from meeting_push.redis.keys import Keys
from meeting_push.storage.database import Database
from tests.support.eventually import eventually
from tests.support.pair import person
from tests.support.people import Device, Person, api_of, device, send
from tests.support.postgres_server import PostgresServer
from tests.support.redis_server import RedisServer, find_redis7
from tests.support.sentinels import SentinelSite, running_site
from tests.support.server_process import ServerProcess

pytestmark = pytest.mark.timeout(400)

MESSAGES: Final = 10_000
BATCH: Final = 50
#: 送到第几条时出事。
BREAK_AT: Final = 2_500
#: 一秒几次地看；机器停顿的时候不走。
STEP_S: Final = 0.1
#: 契约：提升之后这么久，又在推送。
BACK_WITHIN_S: Final = 5.0
QUICK_MARK_S: Final = 0.5
FIVE_MINUTES_MS: Final = 300_000
#: 启动时看一遍，此后不再看。
NEVER_S: Final = 3_600
QUICK: Final = {
    "identity": "application",
    "node_lease_s": 2,
    "drain_window_s": 1,
    "reconcile_interval_s": QUICK_MARK_S,
    "relay_grace_s": 0.5,
    "sends_per_user_per_s": 0,
}
SENDER: Final = person(1)
RECIPIENTS: Final = [person(number) for number in range(2, 22)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SentinelSite]:
    binary = find_redis7()
    if binary is None:
        pytest.skip("no redis-server >= 7 on PATH")
    yield from running_site(SentinelSite(binary, tmp_path_factory.mktemp("failover")))


@dataclass
class Town:
    """api、网关、工人，各一个进程，在 Sentinel 后面。"""

    api: ServerProcess
    gateway: ServerProcess
    worker: ServerProcess

    @property
    def servers(self) -> tuple[ServerProcess, ...]:
        return (self.api, self.gateway, self.worker)

    @property
    def log(self) -> str:
        return "".join(server.output for server in self.servers)

    def all_ready(self) -> bool:
        return all(server.is_ready() for server in self.servers)


@pytest.fixture
def town(
    site: SentinelSite, postgres_server: PostgresServer, tmp_path: Path, key_prefix: str
) -> Iterator[Town]:
    site.whole()
    url = postgres_server.create_database()
    settings = {**QUICK, "key_prefix": key_prefix}
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(
                ServerProcess(
                    tmp_path, redis_url=site.url, database_url=url, role=role, settings=settings
                )
            )
            for role in ("api", "gateway", "worker")
        ]
        yield Town(*servers)
    postgres_server.drop_database(url)


@dataclass
class Traffic:
    """发出去的（每人该得的）与收到的（每人得到的）。"""

    sent: dict[int, set[str]] = field(default_factory=dict)
    got: dict[int, list[str]] = field(default_factory=dict)
    accepted: int = 0

    @property
    def missing(self) -> int:
        return sum(len(ids - set(self.got.get(who, ()))) for who, ids in self.sent.items())

    @property
    def received(self) -> int:
        return sum(map(len, self.got.values()))


async def publish(
    town: Town, traffic: Traffic, broken: asyncio.Event, most: int = MESSAGES
) -> None:
    """``most`` 条，各给一个人；应答了的才算，机器停顿得久了、没有应答的再发别的。"""
    async with api_of(town.api.base_url, SENDER) as api:
        while traffic.accepted < most:
            to = [RECIPIENTS[n % len(RECIPIENTS)].user_id for n in range(BATCH)]
            body = [{"recipient_ids": [one], "title": "t", "content": "c"} for one in to]
            try:
                answer = await api.post("/messages/batch", json={"messages": body})
            except httpx.TimeoutException:
                continue
            assert answer.status_code == 202, answer.text
            for one, result in zip(to, answer.json()["results"], strict=True):
                traffic.sent.setdefault(one, set()).add(result["message_id"])
            traffic.accepted += BATCH
            if traffic.accepted >= BREAK_AT:
                broken.set()
            await asyncio.sleep(STEP_S / 2)


@contextlib.asynccontextmanager
async def listening(town: Town, traffic: Traffic) -> AsyncIterator[None]:
    async def listen(who: Person) -> None:
        async with PushClient(town.gateway.base_url, who.token) as client:
            async for message in client:
                traffic.got.setdefault(who.user_id, []).append(message.message_id)

    tasks = [asyncio.create_task(listen(who)) for who in RECIPIENTS]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def steps_until(true: Callable[[], bool], at_most_s: float) -> float:
    """看几次才成立，乘以间隔。"""
    for step in range(int(at_most_s / STEP_S)):
        if true():
            return step * STEP_S
        await asyncio.sleep(STEP_S)
    raise AssertionError(f"not within {at_most_s} s of looking")


def kill(server: RedisServer) -> Callable[[], object]:
    server.kill()
    return server.start


def hang(server: RedisServer) -> Callable[[], object]:
    server.pause()
    return server.resume


@pytest.mark.parametrize("fault", [kill, hang], ids=["killed", "hung"])
async def test_dlv_1_a_master_that_is_gone_under_load_loses_nothing(
    site: SentinelSite,
    town: Town,
    fault: Callable[[RedisServer], Callable[[], object]],
    show: Callable[[str], None],
) -> None:
    traffic, broken = Traffic(), asyncio.Event()
    pids = [server.pid for server in town.servers]
    async with listening(town, traffic):
        publishing = asyncio.create_task(publish(town, traffic, broken))
        await broken.wait()
        dead = site.master
        mend = await asyncio.to_thread(fault, dead) if fault is hang else fault(dead)
        await asyncio.to_thread(site.promoted, dead)
        before = traffic.received
        back = await steps_until(lambda: traffic.received > before, BACK_WITHIN_S)
        mend()
        await publishing
        await eventually(lambda: traffic.missing == 0, 200)
    show(f"{fault.__name__}: {traffic.accepted} sent, {traffic.missing} missing, back in {back} s")
    assert all(len(ids) == len(set(ids)) for ids in traffic.got.values())
    assert pids == [server.pid for server in town.servers]
    assert "loop_died" not in town.log
    await eventually(town.all_ready, 60)


async def test_dlv_1_a_master_that_wakes_as_it_is_replaced_loses_nothing(
    site: SentinelSite, town: Town, show: Callable[[str], None]
) -> None:
    """醒来的把积着的命令做完；谁也不把它发的号当成新的主的。"""
    traffic, broken = Traffic(), asyncio.Event()
    async with listening(town, traffic):
        publishing = asyncio.create_task(publish(town, traffic, broken))
        await broken.wait()
        dead = site.master
        dead.pause()
        await asyncio.to_thread(site.promoted, dead)
        dead.resume()
        await publishing
        await eventually(lambda: traffic.missing == 0, 200)
        await eventually(lambda: unsettled(town, 0), 100)
    show(f"woken: {traffic.accepted} sent, {traffic.missing} missing")
    assert all(len(ids) == len(set(ids)) for ids in traffic.got.values())
    assert "loop_died" not in town.log
    await eventually(town.all_ready, 60)


async def test_dlv_1_what_the_promoted_replica_lacked_is_driven_again(
    site: SentinelSite, town: Town
) -> None:
    """副本没有跟上就被提升：缺的从 SQL 再来，位置作废（至多一帧 ``resync``），已送达的不再来。"""
    offline, online = RECIPIENTS[0], RECIPIENTS[1]
    dead = site.master
    replicas = [server for server in site.servers if server is not dead]
    async with device(town.gateway.ws_url(online.user_id), online) as before:
        lost = await sent_past(replicas, town, offline, online, before)
        await asyncio.sleep(2 * QUICK_MARK_S)  # 记号要走过去：副本因此是旧的
        dead.kill()
        for replica in replicas:
            replica.start()  # 停着时写的不在它的 AOF 里
        await asyncio.to_thread(site.promoted, dead)
        await eventually(lambda: "redis_lost_data" in town.log, 60)
        await eventually(lambda: any(f["type"] == "resync" for f in before.others), 60)
        assert not before.has_message()
    async with device(town.gateway.ws_url(offline.user_id), offline) as late:
        assert (await late.next_message(60))["message_id"] == lost
    dead.start()


async def test_dlv_1_what_only_the_dead_had_seen_is_driven_again(
    site: SentinelSite, postgres_server: PostgresServer, tmp_path: Path, key_prefix: str
) -> None:
    """写下它的进程、看着记号的进程与主一起没了，提升的副本没有它，记号也没有落后：没有一个证人。"""
    site.whole()
    offline, online = RECIPIENTS[0], RECIPIENTS[1]
    dead, url = site.master, postgres_server.create_database()
    replicas = [server for server in site.servers if server is not dead]

    def life(stack: contextlib.ExitStack, **settings: object) -> Town:
        settings = {**QUICK, "key_prefix": key_prefix, **settings}
        options = {"redis_url": site.url, "database_url": url, "settings": settings}
        roles = ("api", "gateway", "worker")
        servers = [ServerProcess(tmp_path, role=role, **options) for role in roles]  # type: ignore[arg-type]
        return Town(*(stack.enter_context(one) for one in servers))

    with contextlib.ExitStack() as stack:
        town = life(stack, reconcile_interval_s=NEVER_S)
        async with device(town.gateway.ws_url(online.user_id), online) as before:
            await eventually(lambda: all(knows(site, one, key_prefix) for one in replicas), 60)
            lost = await sent_past(replicas, town, offline, online, before)
            await eventually(lambda: enqueued(town, 2), 60)
            position = {"epoch": before.welcome["epoch"], "last_seq": before.welcome["seq"] + 1}
            for server in town.servers:
                server.kill()
        dead.kill()
        for replica in replicas:
            replica.start()
        promoted = await asyncio.to_thread(site.promoted, dead)
        await long_ago(town, site, promoted, key_prefix)
        town = life(stack)
        async with device(town.gateway.ws_url(offline.user_id), offline) as late:
            assert (await late.next_message(120))["message_id"] == lost
        again = await send(town.api.base_url, SENDER, [online])
        await eventually(lambda: "generation_renewed" in town.log, 60)
        async with device(town.gateway.ws_url(online.user_id, **position), online) as back:
            assert (await back.next_message(60))["message_id"] == again
            assert any(frame["type"] == "resync" for frame in back.others)
    dead.start()
    postgres_server.drop_database(url)


async def sent_past(
    replicas: Sequence[RedisServer], town: Town, offline: Person, online: Person, one: Device
) -> str:
    """副本都停了才发：``online`` 的到了 ``one``、确认到记录里；返回 ``offline`` 的。"""
    for replica in replicas:
        replica.kill()
    lost = await send(town.api.base_url, SENDER, [offline])
    delivered = await send(town.api.base_url, SENDER, [online])
    assert (await one.next_message(60))["message_id"] == delivered
    await one.ack(delivered)
    await eventually(lambda: status(town, delivered, "delivered"), 60)
    return lost


def knows(site: SentinelSite, server: RedisServer, prefix: str) -> bool:
    """对账者第一次看过的，它有了：谁是主。"""
    with site.client(server) as client:
        return bool(client.hget(Keys(prefix).delivery_generation, "masters"))


async def long_ago(town: Town, site: SentinelSite, master: RedisServer, prefix: str) -> None:
    """那是五分钟之前的事：掉队检查还看不到，重启之后的检查看得到。"""
    with site.client(master) as client:
        client.hincrby(Keys(prefix).delivery_generation, "at", -FIVE_MINUTES_MS)
    database = Database(town.api.database_url)
    earlier = text(f"UPDATE mp_messages SET enqueued_at = enqueued_at - {FIVE_MINUTES_MS}")
    await database.change(earlier)
    await database.dispose()


async def status(town: Town, message_id: str, wanted: str) -> bool:
    async with api_of(town.api.base_url, SENDER) as api:
        answer = await api.get(f"/messages/{message_id}/delivery")
    return bool(answer.json()[wanted] == 1)


async def enqueued(town: Town, wanted: int) -> bool:
    return await counted(town, "mp_messages WHERE enqueued_at IS NOT NULL") == wanted


async def unsettled(town: Town, wanted: int) -> bool:
    """记录里这么多份还没有确认到。"""
    return await counted(town, "mp_message_recipients WHERE status <> 'delivered'") == wanted


async def counted(town: Town, rows: str) -> int:
    database = Database(town.api.database_url)
    try:
        return int(await database.scalar(text(f"SELECT count(*) FROM {rows}")) or 0)
    finally:
        await database.dispose()
