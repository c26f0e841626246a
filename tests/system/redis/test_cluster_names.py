"""Cluster 的节点怎样报出自己：TLS 与主机名（证书只认名字），或只报端口；用一个 ACL 用户进去。"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from meeting_push.redis.address import RedisAddress
from meeting_push.redis.cluster import ClusterConnection
from meeting_push.redis.slot_map import slot_of
from tests.support.certificate import self_signed
from tests.support.clusters import ClusterSite, running_cluster
from tests.support.eventually import eventually
from tests.support.one_command import command
from tests.support.pair import ADMIN, QUICK, person
from tests.support.people import delivery, device, send
from tests.support.redis_server import find_embedded_redis, find_redis7
from tests.support.server_process import ServerProcess

pytestmark = pytest.mark.timeout(240)

HOST: Final = "localhost"
SETTINGS: Final = {**QUICK, "identity": "application"}
PEOPLE: Final = [person(number) for number in range(20, 32)]


@pytest.fixture(scope="module")
def binary() -> Path:
    found = find_redis7()
    if found is None:
        pytest.skip("no redis-server >= 7 on PATH")
    return found


@pytest.fixture(scope="module")
def secured(binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterSite]:
    """只说主机名，总线、复制、客户端都走 TLS；缺省的用户另有密码。"""
    folder = tmp_path_factory.mktemp("secured")
    _, certificate = self_signed(folder, HOST)
    options = (
        *("--tls-cert-file", str(certificate), "--tls-key-file", str(folder / "key.pem")),
        *("--tls-ca-cert-file", str(certificate), "--tls-auth-clients", "no"),
        *("--tls-cluster", "yes", "--tls-replication", "yes"),
        *("--cluster-announce-hostname", HOST, "--cluster-preferred-endpoint-type", "hostname"),
        *("--user", "app", "on", ">hunter2", "~*", "&*", "+@all"),
    )
    site = ClusterSite(binary, folder, password="theirs", tls=True, options=options)
    seeds = ",".join(f"{HOST}:{one.public_port}" for one in site.first_masters)
    site.url = f"rediss+cluster://app:hunter2@{seeds}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(certificate))
        yield from running_cluster(site)


@pytest.fixture(scope="module", params=[find_redis7, find_embedded_redis])
def nameless(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ClusterSite]:
    """各台都不说自己在哪里：到问的那台的地址去。"""
    binary = request.param()
    if binary is None:
        pytest.skip("no such server")
    folder = tmp_path_factory.mktemp("nameless")
    options = ("--cluster-preferred-endpoint-type", "unknown-endpoint")
    yield from running_cluster(ClusterSite(binary, folder, options=options))


async def delivered_to_everybody(server: ServerProcess) -> None:
    phones = [device(server.ws_url(one.user_id), one) for one in PEOPLE]
    devices = [await phone.__aenter__() for phone in phones]
    message_id = await send(server.base_url, ADMIN, PEOPLE)
    for one in devices:
        assert (await one.next_message(60))["message_id"] == message_id
        await one.ack(message_id)

    async def recorded() -> bool:
        count = (await delivery(server.base_url, ADMIN, message_id))["delivered"]
        return bool(count == len(PEOPLE))

    await eventually(recorded, 60)
    for phone in phones:
        await phone.__aexit__(None, None, None)


async def a_slot_that_moved_is_followed(site: ClusterSite) -> None:
    """MOVED 照同样的写法说去哪里；槽图还没有再问过。"""
    through = ClusterConnection(RedisAddress.parse(site.url), timeout_s=30)
    await through.connect()
    slot = slot_of("moved")
    await through.execute("SET", "moved", 1)
    there = next(one for one in site.masters if one is not site.owner_of(slot))
    await asyncio.to_thread(site.move_slot, slot, there)
    assert await through.execute("GET", "moved") == b"1"
    assert through.masters.placed()[slot] in {*through.masters.every()}
    await through.close()


# ── TLS、主机名、用户 ────────────────────────────────────────────────────────


def test_every_node_is_known_by_its_host_name(secured: ClusterSite) -> None:
    slots = secured.ask(secured.servers[0], "CLUSTER", "SLOTS")
    assert {master[0] for _, _, master, *_ in slots} == {HOST}


async def test_a_server_speaks_tls_to_every_master_as_its_own_user(
    secured: ClusterSite, tmp_path: Path
) -> None:
    with ServerProcess(tmp_path, redis_url=secured.url, settings=SETTINGS) as server:
        await delivered_to_everybody(server)
        for one in secured.servers:
            clients = secured.ask(one, "CLIENT", "LIST").splitlines()
            ours = [line for line in clients if "meeting-push" in line]
            assert ours
            assert all(" user=app " in line for line in ours)
    found = command(tmp_path, "doctor", "--redis-url", secured.url)
    assert "ok   redis" in found.stdout
    assert "hunter2" not in found.stdout + found.stderr


async def test_a_slot_that_moved_is_followed_by_its_host_name(secured: ClusterSite) -> None:
    await a_slot_that_moved_is_followed(secured)


@pytest.mark.parametrize(
    ("wrong", "code", "said"),
    [
        (("app:hunter2", "app:wrong"), 2, "Redis refused the credentials"),
        ((HOST, "127.0.0.1"), 1, "certificate verify failed"),
        (("rediss", "redis"), 1, "start_waits"),
    ],
    ids=["password", "name", "no-tls"],
)
def test_a_wrong_address_is_one_line(
    secured: ClusterSite, tmp_path: Path, wrong: tuple[str, str], code: int, said: str
) -> None:
    url = secured.url.replace(*wrong)
    result = command(tmp_path, "serve", "--redis-url", url, "--port", "0")
    assert result.returncode == code, result.stderr
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert "hunter2" not in result.stdout + result.stderr


# ── 只报端口 ────────────────────────────────────────────────────────────────


def test_no_node_says_where_it_is(nameless: ClusterSite) -> None:
    slots = nameless.ask(nameless.servers[0], "CLUSTER", "SLOTS")
    assert not any(master[0] for _, _, master, *_ in slots)


async def test_a_server_goes_where_it_asked(nameless: ClusterSite, tmp_path: Path) -> None:
    with ServerProcess(tmp_path, redis_url=nameless.url, settings=SETTINGS) as server:
        await delivered_to_everybody(server)


async def test_a_slot_that_moved_is_followed_to_where_it_was_asked(nameless: ClusterSite) -> None:
    await a_slot_that_moved_is_followed(nameless)
