"""Redis Cluster 的一个主在负载下没有了、槽在负载下搬走：收下的一条不丢，谁也不重启，几秒之内
又推送。"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from meeting_push.clock import now_ms
from meeting_push.protocol.envelope import encode_tail
from meeting_push.redis.keys import Keys
from meeting_push.redis.lean import Script
from meeting_push.redis.link import pack
from meeting_push.redis.slot_map import slot_of
from tests.support.clusters import ClusterServer, ClusterSite, running_cluster
from tests.support.eventually import eventually
from tests.support.people import Device, Person, device, send
from tests.support.postgres_server import PostgresServer
from tests.support.redis_server import find_redis7
from tests.support.server_process import ServerProcess
from tests.support.stored_messages import stored_message

from .test_failover import (
    BACK_WITHIN_S,
    QUICK,
    RECIPIENTS,
    SENDER,
    Town,
    Traffic,
    kill,
    listening,
    publish,
    steps_until,
    unsettled,
)

pytestmark = pytest.mark.timeout(500)

PARTITIONS: Final = 6
#: 挂住又醒来几次，其间发的。
WAKES: Final = 3
WOKEN_MESSAGES: Final = 25_000
#: 负载之下搬走的槽：各人的，与队列的一个分区的。
MOVING: Final = [str(one.user_id) for one in RECIPIENTS[:8]] + ["q0"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterSite]:
    binary = find_redis7()
    if binary is None:
        pytest.skip("no redis-server >= 7 on PATH")
    directory = tmp_path_factory.mktemp("cluster-failover")
    yield from running_cluster(ClusterSite(binary, directory, replicas=1, node_timeout_ms=3_000))


@pytest.fixture
def town(
    site: ClusterSite, postgres_server: PostgresServer, tmp_path: Path, key_prefix: str
) -> Iterator[Town]:
    site.whole()
    url = postgres_server.create_database()
    settings = {**QUICK, "key_prefix": key_prefix, "queue_partitions": PARTITIONS}
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


def hang(server: ClusterServer) -> Callable[[], object]:
    """不再醒来：醒来的会把积着的命令当作主做完，见 ``docs/operations.md``。"""
    server.pause()

    def replace() -> None:
        server.kill()
        server.start()

    return replace


def of(site: ClusterSite, master: ClusterServer) -> list[int]:
    """键在这个主上的人。"""
    return [one.user_id for one in RECIPIENTS if site.owner_of(slot_of(str(one.user_id))) is master]


@pytest.mark.parametrize("fault", [kill, hang], ids=["killed", "hung"])
async def test_dlv_1_a_master_of_a_cluster_that_is_gone_under_load_loses_nothing(
    site: ClusterSite,
    town: Town,
    fault: Callable[[ClusterServer], Callable[[], object]],
    show: Callable[[str], None],
) -> None:
    traffic, broken = Traffic(), asyncio.Event()
    pids = [server.pid for server in town.servers]
    dead = site.owner_of(slot_of(str(RECIPIENTS[0].user_id)))
    his = of(site, dead)
    slot = slot_of(str(his[0]))

    def received() -> int:
        return sum(len(traffic.got.get(one, ())) for one in his)

    async with listening(town, traffic):
        publishing = asyncio.create_task(publish(town, traffic, broken))
        await broken.wait()
        mend = fault(dead)
        await asyncio.to_thread(site.promoted, dead, slot)
        before = received()
        back = await steps_until(lambda: received() > before, BACK_WITHIN_S)
        mend()
        await publishing
        await eventually(lambda: traffic.missing == 0, 200)
    show(f"{fault.__name__}: {traffic.accepted} sent, {traffic.missing} missing, back in {back} s")
    assert all(len(ids) == len(set(ids)) for ids in traffic.got.values())
    assert pids == [server.pid for server in town.servers]
    assert "loop_died" not in town.log
    await eventually(town.all_ready, 60)


async def test_dlv_1_masters_that_wake_as_they_are_replaced_lose_nothing(
    site: ClusterSite, town: Town, show: Callable[[str], None]
) -> None:
    """醒来的把积着的命令当作主做完，经总线发布出去：谁也不把它发的号当成新的主的。"""
    traffic, broken = Traffic(), asyncio.Event()
    async with listening(town, traffic):
        publishing = asyncio.create_task(publish(town, traffic, broken, WOKEN_MESSAGES))
        await broken.wait()
        for who in RECIPIENTS[:WAKES]:
            slot = slot_of(str(who.user_id))
            dead = site.owner_of(slot)
            dead.pause()
            await asyncio.to_thread(site.promoted, dead, slot)
            dead.resume()
            await asyncio.to_thread(site.whole)
        await publishing
        await eventually(lambda: traffic.missing == 0, 200)
        await eventually(lambda: unsettled(town, 0), 100)
    show(f"woken: {traffic.accepted} sent, {traffic.missing} missing")
    assert all(len(ids) == len(set(ids)) for ids in traffic.got.values())
    assert "loop_died" not in town.log
    await eventually(town.all_ready, 60)


async def test_dlv_1_what_a_woken_master_published_hides_nothing(
    site: ClusterSite, town: Town, key_prefix: str
) -> None:
    """旧的主醒来用掉的号，新的主又用一遍：连着的设备、带着位置回来的设备都得到后一条。"""
    stays = RECIPIENTS[0]
    slot = slot_of(str(stays.user_id))
    dead = site.owner_of(slot)
    leaves = next(one for one in RECIPIENTS[1:] if site.owner_of(slot_of(str(one.user_id))) is dead)
    async with (
        device(town.gateway.ws_url(stays.user_id), stays) as staying,
        device(town.gateway.ws_url(leaves.user_id), leaves) as leaving,
    ):
        await taken(town, stays, staying)
        await taken(town, leaves, leaving)
        with buffered(dead, [delivery_of(key_prefix, one.user_id) for one in (stays, leaves)]):
            await asyncio.to_thread(site.promoted, dead, slot)
            await eventually(town.all_ready, 60)
            dead.resume()
            await asyncio.to_thread(site.whole)
            await leaving.round_trip()
        position = await claimed(leaving)
        await leaving.close()
        async with device(town.gateway.ws_url(leaves.user_id), leaves) as another:
            hidden = await taken(town, leaves, another)
            await eventually(lambda: unsettled(town, 0), 60)
        await taken(town, stays, staying)
    async with device(town.gateway.ws_url(leaves.user_id, **position), leaves) as back:
        await eventually(lambda: learns(back, hidden), 60)


async def taken(town: Town, who: Person, one: Device) -> str:
    """发一条给他，这台设备得到了、确认了。"""
    message_id = await send(town.api.base_url, SENDER, [who])
    while (await one.next_message(60))["message_id"] != message_id:
        pass
    await one.ack(message_id)
    return message_id


async def learns(one: Device, hidden: str) -> bool:
    """得到了那一条，或被告知位置作废（换一代之前回来的，换了就告知）。"""
    while one.has_message():
        if (await one.next_message())["message_id"] == hidden:
            return True
    return any(frame["type"] == "resync" for frame in one.others)


async def claimed(one: Device) -> dict[str, str | int]:
    """这台设备重连时会声称的位置。"""
    told = [one.welcome, *(frame for frame in one.others if frame["type"] == "resync")][-1]
    seq = max(told["seq"], 1)
    while one.has_message():
        seq = max(seq, (await one.next_message())["seq"])
    return {"epoch": told["epoch"], "last_seq": seq}


def delivery_of(prefix: str, user_id: int) -> bytes:
    """有谁正投递给他的一条，写给主的字节。"""
    keys = Keys(prefix, tagged=True)
    message = stored_message(now_ms())
    touched = (keys.mailbox(user_id), keys.message_log(user_id), keys.user_seq(user_id))
    head = (prefix, "1-late", 1_000, 1_000, 3_600_000, 3_600_000, "SPUBLISH")
    row = (message.message_id, 0, encode_tail(message), 1, user_id)
    return pack("EVAL", Script("deliver").text, len(touched), *touched, *head, *row)


@contextlib.contextmanager
def buffered(server: ClusterServer, commands: list[bytes]) -> Iterator[None]:
    """挂住它；这几条积在它的套接字里，写的人走了。"""
    with socket.create_connection(("127.0.0.1", server.port)) as writing:
        server.pause()
        writing.sendall(b"".join(commands))
    yield


async def test_dlv_1_slots_that_move_under_load_lose_nothing(
    site: ClusterSite, town: Town, show: Callable[[str], None]
) -> None:
    traffic, broken = Traffic(), asyncio.Event()
    async with listening(town, traffic):
        publishing = asyncio.create_task(publish(town, traffic, broken))
        await broken.wait()
        for tag in MOVING:
            here = site.owner_of(slot_of(tag))
            there = next(one for one in site.masters if one is not here)
            await asyncio.to_thread(site.move_slot, slot_of(tag), there)
        await publishing
        await eventually(lambda: traffic.missing == 0, 200)
    show(f"moved {len(MOVING)} slots: {traffic.accepted} sent, {traffic.missing} missing")
    assert all(len(ids) == len(set(ids)) for ids in traffic.got.values())
    assert "loop_died" not in town.log
    await eventually(town.all_ready, 60)
