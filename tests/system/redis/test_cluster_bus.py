"""Redis Cluster 上的整条路：槽搬走了、工人死了、分区改了，谁也没有漏掉一条。"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import pytest

from meeting_push.drill.stand_ins import RedisProxy, redis_proxy
from meeting_push.redis.keys import Keys
from meeting_push.redis.slot_map import slot_of
from tests.support.clusters import ClusterServer, ClusterSite
from tests.support.eventually import eventually
from tests.support.people import Device, device, register, send
from tests.support.redis_server import find_redis7
from tests.support.running_node import Node, running_node
from tests.support.server_process import ServerProcess

pytestmark = pytest.mark.timeout(300)

USERS = range(1, 13)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterSite]:
    """可以搬槽的。"""
    binary = find_redis7()
    if binary is None:
        pytest.skip("no redis-server >= 7 on PATH")
    started = ClusterSite(binary, tmp_path_factory.mktemp("cluster-bus")).start()
    yield started
    started.stop()


@contextlib.asynccontextmanager
async def devices(node: Node) -> AsyncIterator[dict[int, Device]]:
    async with contextlib.AsyncExitStack() as stack:
        yield {
            user: await stack.enter_async_context(device(node.ws_url(user), node.person(user)))
            for user in USERS
        }


async def ids_of(phone: Device, wanted: set[str]) -> set[str]:
    """收到的；都到了为止。"""
    found: set[str] = set()
    while not wanted <= found:
        found.add(str((await phone.next_message(60))["message_id"]))
    return found


async def test_dlv_1_whoever_is_connected_while_his_slot_moves_misses_nothing(
    tmp_path: Path, site: ClusterSite, key_prefix: str
) -> None:
    slots = [slot_of(Keys(key_prefix).user_channel(user)) for user in USERS]
    settings = {"queue_partitions": 3, "canary_interval_s": 0.2}
    async with (
        running_node(tmp_path, site.url, key_prefix, **settings) as node,
        devices(node) as phones,
    ):
        sent: dict[int, set[str]] = {user: set() for user in USERS}
        moved = asyncio.Event()

        async def keep_sending() -> None:
            while not moved.is_set():
                for user in USERS:
                    sent[user].add((await node.send(user)).message_id)

        async def move_all() -> None:
            for slot in slots[:6]:
                here = await asyncio.to_thread(site.owner_of, slot)
                there = next(one for one in site.masters if one is not here)
                await asyncio.to_thread(site.move_slot, slot, there)
            moved.set()

        await asyncio.gather(keep_sending(), move_all())
        for user, phone in phones.items():
            assert sent[user] <= await ids_of(phone, sent[user])

        async def hears() -> bool:
            return not await node.failing()

        await eventually(hears, 30)
        # 搬完之后的从快路来，不靠重读
        after = {user: (await node.send(user)).message_id for user in USERS}
        for user, phone in phones.items():
            assert await ids_of(phone, {after[user]}) == {after[user]}
        assert node.push._rooms.edge.hearing.canary.statistics().resets == 0


@contextlib.asynccontextmanager
async def behind_proxy(site: ClusterSite, master: ClusterServer) -> AsyncIterator[RedisProxy]:
    """``master`` 让大家经代理到它那里去。"""
    async with redis_proxy(master.port) as proxy:
        for port in (proxy.port, 0):
            site.ask(master, "CONFIG", "SET", "cluster-announce-port", port)
            await eventually(partial(_announced, site, master, port or master.port), 60)
            if port:
                yield proxy


def _announced(site: ClusterSite, master: ClusterServer, port: int) -> bool:
    who = site.id_of(master)
    return all(f":{port}@" in site.nodes(one)[who][1] for one in site.servers)


async def test_con_3_a_node_deaf_to_one_master_finds_out_and_reads_again(
    tmp_path: Path, site: ClusterSite, key_prefix: str
) -> None:
    """一个主送不来消息，别的都好：金丝雀在那一条上没有回来。"""
    settings = {"canary_interval_s": 0.05, "canary_deaf_s": 2.0, "drain_window_s": 0.1}
    master = site.owner_of(slot_of(Keys(key_prefix).user_channel(7)))
    async with (
        behind_proxy(site, master) as proxy,
        running_node(tmp_path, site.url, key_prefix, **settings) as node,
        device(node.ws_url(7), node.person(7)) as phone,
    ):

        async def deaf() -> bool:
            return "canary" in await node.failing()

        async def hears() -> bool:
            return not await node.failing()

        await eventually(hears, 30)
        proxy.deaf = True
        sent = await node.send(7)
        await eventually(deaf, 30)
        proxy.deaf = False
        assert (await phone.next_message(60))["message_id"] == sent.message_id
        await eventually(hears, 30)
        subscriber = node.push._rooms.bus.subscriber
        assert subscriber.reconnects == node.push._rooms.edge.hearing.canary.statistics().resets


async def test_a_foreign_publisher_uses_spublish(
    tmp_path: Path, site: ClusterSite, key_prefix: str
) -> None:
    """docs/redis-data.md：别的语言的进程，``redis-cli -c``，问哪一台都行。"""
    cli = shutil.which("redis-cli")
    if cli is None:
        pytest.skip("no redis-cli on PATH")
    async with (
        running_node(tmp_path, site.url, key_prefix) as node,
        devices(node) as phones,
    ):
        for user, phone in phones.items():
            channel = Keys(key_prefix).user_channel(user)
            text = f'{{"type":"new_message","message_id":"n-{user}","title":"t","content":"c"}}'
            port = str(site.servers[user % 3].port)
            command = [cli, "-c", "-p", port, "SPUBLISH", channel, text]
            done = await asyncio.to_thread(subprocess.run, command, capture_output=True, check=True)
            assert done.stdout.split()[-1] == b"1", done
            assert (await phone.next_message(30))["message_id"] == f"n-{user}"


async def test_dlv_1_a_worker_that_dies_leaves_no_partition_unread(
    tmp_path: Path, site: ClusterSite, key_prefix: str
) -> None:
    """两个进程的消费者各读全部分区；一个 ``kill -9``，它手里的由另一个认领。"""
    settings = {"key_prefix": key_prefix, "queue_partitions": 3, "claim_idle_ms": 500}
    shared = {"redis_url": site.url, "settings": settings}
    with (
        ServerProcess(tmp_path, role="worker", **shared) as doomed,  # type: ignore[arg-type]
        ServerProcess(tmp_path, **shared) as server,  # type: ignore[arg-type]
    ):
        alice, bob = (
            await register(server.base_url, "alice"),
            await register(server.base_url, "bob"),
        )
        async with device(server.ws_url(bob.user_id), bob) as phone:
            sent = {await send(server.base_url, alice, [bob, alice]) for _ in range(20)}
            doomed.kill()
            sent |= {await send(server.base_url, alice, [bob, alice]) for _ in range(20)}
            assert await ids_of(phone, sent) == sent


async def test_what_waits_in_partitions_of_before_is_delivered(
    tmp_path: Path, site: ClusterSite, key_prefix: str
) -> None:
    quiet = {"consumer_tasks": 1, "direct_recipients": 0}
    async with running_node(tmp_path, site.url, key_prefix, queue_partitions=4, **quiet) as node:
        await node.push._rooms.messages.consumers.drain()
        sent = {(await node.send(7)).message_id for _ in range(20)}

        async def queued() -> bool:
            return await node.push._rooms.messages.queue.streams.backlog() == 20

        await eventually(queued, 30)
    async with (
        running_node(tmp_path, site.url, key_prefix, queue_partitions=1) as node,
        device(node.ws_url(7), node.person(7)) as phone,
    ):
        assert await ids_of(phone, sent) == sent
