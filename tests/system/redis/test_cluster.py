"""两个服务器在三个主的 Redis Cluster 上：照常送达、在线、广播、重新入队；地址写错各是一行话。"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from redis import RedisCluster

from meeting_push.redis.cluster import ClusterConnection
from meeting_push.redis.slot_map import slot_of
from tests.support.clusters import ClusterSite
from tests.support.eventually import eventually
from tests.support.one_command import command
from tests.support.pair import ADMIN, QUICK, Pair, online, person, presence
from tests.support.people import api_of, delivery, device, send
from tests.support.redis_server import RedisServer
from tests.support.server_process import ServerProcess

pytestmark = pytest.mark.timeout(240)

SETTINGS: Final = {**QUICK, "identity": "application", "retry_delays_s": "[0.2, 0.2, 0.2]"}
#: 各人的键分在三个主上。
PEOPLE: Final = [person(number) for number in range(20, 50)]


@pytest.fixture(scope="module")
def pair(cluster_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with Pair(tmp_path_factory.mktemp("pair"), cluster_server, SETTINGS) as both:
        yield both


async def settled(server: ServerProcess, message_id: str, wanted: str, count: int) -> None:
    async def enough() -> bool:
        return bool((await delivery(server.base_url, ADMIN, message_id))[wanted] == count)

    await eventually(enough, 60)


def test_the_people_are_spread_over_every_master(cluster_site: ClusterSite) -> None:
    owners = {cluster_site.owner_of(slot_of(str(one.user_id))) for one in PEOPLE}
    assert owners == set(cluster_site.servers)


async def test_what_is_sent_at_one_node_is_delivered_and_acked_at_the_other(pair: Pair) -> None:
    who = PEOPLE[:12]
    phones = [device(pair.second.ws_url(one.user_id), one) for one in who]
    devices = [await phone.__aenter__() for phone in phones]
    message_id = await send(pair.first.base_url, ADMIN, who)
    for one in devices:
        assert (await one.next_message(30))["message_id"] == message_id
        await one.ack(message_id)
    await settled(pair.first, message_id, "delivered", len(who))
    for phone in phones:
        await phone.__aexit__(None, None, None)


async def test_who_was_away_gets_it_once_and_resumes(pair: Pair) -> None:
    bob = PEOPLE[12]
    first = await send(pair.first.base_url, ADMIN, [bob])
    async with device(pair.second.ws_url(bob.user_id), bob) as phone:
        assert (await phone.next_message(30))["message_id"] == first
        await phone.ack(first)
        await settled(pair.first, first, "delivered", 1)
    second = await send(pair.first.base_url, ADMIN, [bob])
    async with device(pair.first.ws_url(bob.user_id), bob) as phone:
        assert (await phone.next_message(30))["message_id"] == second
        await phone.ack(second)
        await phone.round_trip()
        assert not phone.has_message()


async def test_presence_is_seen_at_both_nodes(pair: Pair) -> None:
    who = PEOPLE[13:19]
    phones = [device(pair.second.ws_url(one.user_id), one) for one in who]
    for phone in phones:
        await phone.__aenter__()
    ids = {one.user_id for one in who}

    async def all_here() -> bool:
        return ids <= {item["user_id"] for item in await online(pair.first)}

    await eventually(all_here, 60)
    assert (await presence(pair.first, ADMIN, who[0].user_id))["online"] is True
    for phone in phones:
        await phone.__aexit__(None, None, None)

    async def gone() -> bool:
        return not (await presence(pair.first, ADMIN, who[0].user_id))["online"]

    await eventually(gone, 60)


async def test_a_broadcast_reaches_everybody_once(pair: Pair) -> None:
    near, far = PEOPLE[19], PEOPLE[20]
    async with (
        device(pair.first.ws_url(near.user_id), near) as one,
        device(pair.second.ws_url(far.user_id), far) as other,
    ):
        async with api_of(pair.first.base_url, ADMIN) as api:
            answer = await api.post("/messages/broadcast", json={"title": "t", "content": "all"})
        assert answer.status_code == 202, answer.text
        for each in (one, other):
            assert (await each.next_message(30))["content"] == "all"
            await each.round_trip()
            assert not each.has_message()


async def test_what_failed_is_requeued_and_delivered(pair: Pair) -> None:
    bob = PEOPLE[21]
    async with device(pair.second.ws_url(bob.user_id), bob) as deaf:
        message_id = await send(pair.first.base_url, ADMIN, [bob])
        await deaf.next_message(30)
        await settled(pair.first, message_id, "failed", 1)
    async with api_of(pair.first.base_url, ADMIN) as api:
        page = (await api.get("/queues/dead-letter", params={"limit": 200})).json()
        [letter] = [each for each in page["items"] if each["message_id"] == message_id]
        answer = await api.post("/queues/dead-letter/requeue", json={"ids": [letter["id"]]})
    assert answer.json() == {"requeued": [letter["id"]], "skipped": []}
    async with device(pair.first.ws_url(bob.user_id), bob) as phone:
        assert (await phone.next_message(30))["message_id"] == message_id
        await phone.ack(message_id)
        await settled(pair.first, message_id, "delivered", 1)


async def test_a_foreign_client_publishes_through_any_node(
    pair: Pair, cluster_site: ClusterSite
) -> None:
    bob = PEOPLE[22]
    text = json.dumps(
        {"type": "new_message", "message_id": "n-1", "title": "hi", "content": "there"}
    )
    channel = f"{pair.prefix}user:{{{bob.user_id}}}:messages"
    async with device(pair.second.ws_url(bob.user_id), bob) as phone:
        with RedisCluster(host="127.0.0.1", port=cluster_site.servers[1].port) as foreign:
            verb = ClusterConnection.publishing
            await asyncio.to_thread(foreign.execute_command, verb, channel, text)
        assert (await phone.next_message(30))["content"] == "there"


# ── 写错的 ───────────────────────────────────────────────────────────────────


def addresses(site: ClusterSite, alone: RedisServer) -> dict[str, tuple[str, str]]:
    """写错的：（地址，那一行里有的话）。"""
    node, other = f"127.0.0.1:{site.servers[0].port}", f"127.0.0.1:{alone.port}"
    return {
        "a cluster as redis": (
            f"redis://{node}/0",
            f"is a node of a Redis Cluster: the address is redis+cluster://{node}",
        ),
        "a redis as cluster": (f"redis+cluster://{other}", "is not a Redis Cluster"),
        "a password": (f"redis+cluster://x:hunter2@{node}", "Redis refused the credentials"),
        "a database": (f"redis+cluster://{node}/3", "a Redis Cluster has only database 0"),
    }


@pytest.mark.parametrize(
    "which", ["a cluster as redis", "a redis as cluster", "a password", "a database"]
)
def test_a_wrong_address_is_one_line(
    which: str, cluster_site: ClusterSite, redis7_server: RedisServer, tmp_path: Path
) -> None:
    url, said = addresses(cluster_site, redis7_server)[which]
    served = command(tmp_path, "serve", "--redis-url", url)
    assert served.returncode == 2, served.stderr
    assert said in served.stderr
    assert "hunter2" not in served.stderr + served.stdout
    assert "Traceback" not in served.stderr


def test_the_doctor_finds_a_cluster_well(cluster_site: ClusterSite, tmp_path: Path) -> None:
    told = command(tmp_path, "doctor", "--redis-url", cluster_site.url)
    [line] = [one for one in told.stdout.splitlines() if " redis " in one]
    assert "3 masters" in line, told.stdout


def test_the_doctor_says_that_there_are_too_few_replicas_to_wait_for(
    cluster_site: ClusterSite, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("MEETING_PUSH_REDIS_WAIT_REPLICAS=2\n")
    told = command(tmp_path, "doctor", "--redis-url", cluster_site.url)
    [line] = [one for one in told.stdout.splitlines() if " redis " in one]
    assert "0 of 2 replicas" in line, told.stdout
