"""Redis Cluster 出了毛病：有槽没有主、一个主满了、用户少一项权限；说得出是什么，收下的一条不丢。"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Final

import httpx
import pytest
from redis.exceptions import RedisError

from meeting_push.redis.slot_map import slot_of
from tests.support.clusters import SLOTS, ClusterServer, ClusterSite, redis7_cluster
from tests.support.eventually import eventually, wait_until
from tests.support.one_command import command
from tests.support.pair import ADMIN, person
from tests.support.people import Device, Person, delivery, device, send
from tests.support.ports import free_port
from tests.support.server_process import ServerProcess

pytestmark = pytest.mark.timeout(240)

SETTINGS: Final = {"identity": "application", "relay_interval_s": 0.2, "relay_grace_s": 0.5}
PEOPLE: Final = [person(number) for number in range(20, 50)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterSite]:
    """只属于这个文件：可以弄坏，离开之前修好。"""
    yield from redis7_cluster(tmp_path_factory.mktemp("troubled"))


@pytest.fixture(scope="module")
def server(site: ClusterSite, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    directory = tmp_path_factory.mktemp("troubled-server")
    with ServerProcess(directory, redis_url=site.url, settings=SETTINGS) as process:
        yield process


@pytest.fixture
def bob(site: ClusterSite) -> Person:
    """他的键不在队列的那个主上。"""
    queue = site.owner_of(slot_of("q0"))
    return next(one for one in PEOPLE if site.owner_of(slot_of(str(one.user_id))) is not queue)


@pytest.fixture
def carol(site: ClusterSite) -> Person:
    """她的键在。"""
    queue = site.owner_of(slot_of("q0"))
    return next(one for one in PEOPLE if site.owner_of(slot_of(str(one.user_id))) is queue)


@contextlib.contextmanager
def uncovered(site: ClusterSite, slot: int) -> Iterator[None]:
    """谁也不管 ``slot``；别的主各自说 Cluster 不好。"""
    owner = site.owner_of(slot)
    ordered = [owner, *(one for one in site.servers if one is not owner)]

    def dropped() -> bool:
        for one in ordered:  # 路上的一句话会让别的主又当它有主
            with contextlib.suppress(RedisError):
                site.ask(one, "CLUSTER", "DELSLOTS", slot)
        return all(f"assigned:{SLOTS - 1}" in site.ask(one, "CLUSTER", "INFO") for one in ordered)

    wait_until(dropped, 30)
    try:
        yield
    finally:
        site.ask(owner, "CLUSTER", "ADDSLOTS", slot)
        site.whole()


@contextlib.contextmanager
def full(site: ClusterSite, master: ClusterServer) -> Iterator[None]:
    site.ask(master, "CONFIG", "SET", "maxmemory", 1)
    try:
        yield
    finally:
        site.ask(master, "CONFIG", "SET", "maxmemory", 0)


def failing(server: ServerProcess) -> str:
    """``/readyz`` 说哪里不行；就绪则空。"""
    answer = httpx.get(f"{server.base_url}/readyz", timeout=10, trust_env=False)
    return "" if answer.status_code == 200 else str(answer.json()["failing"])


def is_alive(server: ServerProcess) -> bool:
    answer = httpx.get(f"{server.base_url}/healthz", timeout=10, trust_env=False)
    return answer.status_code == 200


@contextlib.asynccontextmanager
async def online(server: ServerProcess, *people: Person) -> AsyncIterator[list[Device]]:
    async with contextlib.AsyncExitStack() as stack:
        devices = [
            await stack.enter_async_context(device(server.ws_url(one.user_id), one))
            for one in people
        ]
        for one in devices:
            await one.round_trip()
        yield devices


async def all_came(server: ServerProcess, devices: Sequence[Device], ids: Sequence[str]) -> None:
    """又就绪了，每台设备每条都恰有一次，套接字还是那一条。"""
    await eventually(server.is_ready, 60)
    for one in devices:
        got = [await one.next_message(60) for _ in ids]
        assert sorted(frame["message_id"] for frame in got) == sorted(ids)
        for frame in got:
            await one.ack(frame["message_id"])
        await one.round_trip()
        assert not one.has_message()

    async def recorded() -> bool:
        found = [await delivery(server.base_url, ADMIN, message_id) for message_id in ids]
        return all(one["delivered"] == len(devices) for one in found)

    await eventually(recorded, 60)  # 确认还在路上，同一个人再连上就又是一次
    assert "loop_died" not in server.output
    assert "Traceback" not in server.output


async def test_con_4_a_slot_without_a_master_is_told_and_loses_nothing(
    site: ClusterSite, server: ServerProcess, bob: Person, carol: Person, tmp_path: Path
) -> None:
    async with online(server, bob, carol) as devices:
        with uncovered(site, slot_of(str(bob.user_id))):
            await eventually(lambda: "cluster_down" in failing(server), 60)
            assert is_alive(server)
            ids = [await send(server.base_url, ADMIN, [bob, carol]) for _ in range(3)]  # 仍是 202
            told = await asyncio.to_thread(command, tmp_path, "doctor", "--redis-url", site.url)
            assert not devices[0].has_message()
        await all_came(server, devices, ids)
    assert told.returncode == 1
    assert "slots without a master" in told.stdout
    assert "redis-cli --cluster check" in told.stdout


def test_a_start_without_a_master_for_every_slot_waits_and_says_why(
    site: ClusterSite, tmp_path: Path
) -> None:
    with uncovered(site, 7):
        served = command(tmp_path, "serve", "--port", str(free_port()), "--redis-url", site.url)
    assert served.returncode == 1
    assert "slots without a master" in served.stderr
    assert "Traceback" not in served.stderr


async def test_con_4_a_master_at_its_maxmemory_delays_and_loses_nothing(
    site: ClusterSite, server: ServerProcess, bob: Person, carol: Person
) -> None:
    async with online(server, bob, carol) as devices:
        with full(site, site.owner_of(slot_of(str(bob.user_id)))):
            await eventually(lambda: "oom" in failing(server), 60)
            ids = [await send(server.base_url, ADMIN, [bob, carol]) for _ in range(3)]
            assert not devices[0].has_message()
        await all_came(server, devices, ids)


# ── 用户 ─────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def account(site: ClusterSite, servers: Sequence[ClusterServer], *rules: str) -> Iterator[str]:
    """``servers`` 上的一个用户（ACL 各台各有一份）；用它的地址。"""
    for one in servers:
        site.ask(one, "ACL", "SETUSER", "app", "reset", "on", ">hunter2", "~*", "&*", *rules)
    try:
        yield site.url.replace("//", "//app:hunter2@")
    finally:
        for one in servers:
            site.ask(one, "ACL", "DELUSER", "app")


@pytest.mark.parametrize("missing", ["SSUBSCRIBE", "SPUBLISH", "EVALSHA"])
def test_a_user_without_rights_is_told_what_is_missing(
    missing: str, site: ClusterSite, tmp_path: Path
) -> None:
    with account(site, site.servers, "+@all", f"-{missing.lower()}") as url:
        served = command(tmp_path, "serve", "--port", str(free_port()), "--redis-url", url)
        found = command(tmp_path, "doctor", "--redis-url", url)
    assert served.returncode == 2
    assert f"may not {missing}" in served.stderr
    assert found.returncode == 1
    assert f"may not {missing}" in found.stdout
    assert "hunter2" not in served.stderr + found.stdout


def test_a_user_that_one_node_does_not_know_is_told_where(
    site: ClusterSite, tmp_path: Path
) -> None:
    *some, stranger = site.servers
    with account(site, some, "+@all") as url:
        found = command(tmp_path, "doctor", "--redis-url", url)
    assert found.returncode == 1
    assert f"127.0.0.1:{stranger.port}" in found.stdout
    assert "refused the credentials" in found.stdout
    assert "hunter2" not in found.stdout
