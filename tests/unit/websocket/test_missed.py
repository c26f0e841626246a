"""DLV-5、E1：总线断过之后，每台设备从自己的位置补上，也补上别的设备期间已确认的。"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import pytest

from meeting_push.model import Draft, Sender
from meeting_push_bench.tcp_proxy import TcpProxy
from tests.support.eventually import eventually
from tests.support.people import Device, device
from tests.support.redis_server import RedisServer
from tests.support.running_node import Node, running_node

BOB = 7


@dataclass
class Two:
    """一个人的两台设备，各在一个节点上；``link`` 是头一个节点去 Redis 的路。"""

    link: TcpProxy
    near: Node
    far: Node
    phone: Device
    desk: Device

    async def cut(self) -> None:
        self.link.refuse()
        await eventually(lambda: not self.near.push._rooms.bus.subscriber.connected)

    async def acked_elsewhere(self, count: int = 1) -> list[str]:
        """发 ``count`` 条，另一台收到、确认、移出信箱。"""
        sent = [(await self.far.send(BOB)).message_id for _ in range(count)]
        for _ in sent:
            await self.desk.ack((await self.desk.next_message())["message_id"])
        await eventually(self._mailbox_is_empty)
        return sent

    async def _mailbox_is_empty(self) -> bool:
        return not await self.far.push.mailbox.message_ids(BOB)

    async def received(self, count: int) -> list[str]:
        return [(await self.phone.next_message())["message_id"] for _ in range(count)]

    def told(self) -> list[str]:
        return [frame["type"] for frame in self.phone.others]


@contextlib.asynccontextmanager
async def two(
    tmp_path: Path, server: RedisServer, prefix: str, **settings: object
) -> AsyncIterator[Two]:
    async with (
        TcpProxy(server.port) as link,
        running_node(
            tmp_path, f"redis://127.0.0.1:{link.port}/0", prefix, role="gateway", **settings
        ) as near,
        running_node(tmp_path, server.url, prefix, **settings) as far,
        device(near.ws_url(BOB), near.person(BOB)) as phone,
        device(far.ws_url(BOB), far.person(BOB)) as desk,
    ):
        yield Two(link, near, far, phone, desk)


async def test_dlv_5_what_another_device_acked_while_this_node_was_cut_off_still_comes(
    tmp_path: Path, redis_server: RedisServer, key_prefix: str
) -> None:
    """E1：期间别的设备确认了的，信箱里没有，日志里有。"""
    async with two(tmp_path, redis_server, key_prefix) as both:
        await both.cut()
        sent = await both.acked_elsewhere(3)
        both.link.release()
        assert await both.received(3) == sent
        assert both.told() == []


@pytest.mark.parametrize("how", ["CLIENT KILL", "half open"])
async def test_dlv_5_however_the_subscription_is_lost(
    tmp_path: Path, redis_server: RedisServer, key_prefix: str, how: str
) -> None:
    """E1：Redis 自己踢了订阅者（输出缓冲满时就是这样），或对面不声不响地没了。"""
    async with two(tmp_path, redis_server, key_prefix, redis_timeout_s=2) as both:
        if how == "half open":
            both.link.swallow()
            sent = await both.acked_elsewhere()
        else:
            both.link.hold(answers_only=True)
            sent = await both.acked_elsewhere()
            await both.far.push._rooms.bus.redis.lean.execute("CLIENT", "KILL", "TYPE", "pubsub")
        both.link.release()
        assert await both.received(1) == sent


async def test_dlv_5_a_hole_is_filled_with_what_another_device_acked(
    tmp_path: Path, redis_server: RedisServer, key_prefix: str
) -> None:
    """E1：发布丢了，订阅还在：下一条露出断号。"""
    async with two(tmp_path, redis_server, key_prefix) as both:
        subscriber = both.near.push._rooms.bus.subscriber
        subscriber.unsubscribe(BOB)
        await subscriber.subscribe(8)  # 确认到了，退订也就生效了
        sent = await both.acked_elsewhere()
        await subscriber.subscribe(BOB)
        sent += await both.acked_elsewhere()
        assert await both.received(2) == sent


async def test_dlv_5_what_the_log_no_longer_holds_is_told_once(
    tmp_path: Path, redis_server: RedisServer, key_prefix: str
) -> None:
    """E1：太久远的以一帧 ``resync`` 说出来，此后照常。"""
    async with two(tmp_path, redis_server, key_prefix, message_log_max_entries=16) as both:
        await both.cut()
        await both.acked_elsewhere(40)
        both.link.release()
        await eventually(lambda: both.told() == ["resync"])
        assert both.phone.others[0]["reason"] == "too_far_behind"
        assert await both.acked_elsewhere() == await both.received(1)
        await both.near.push.manager.reread_all()
        await both.phone.round_trip()
        assert both.told() == ["resync"]


async def test_dlv_5_what_expired_meanwhile_is_told(
    tmp_path: Path, redis_server: RedisServer, key_prefix: str
) -> None:
    """E1：期间过期的不会来了，以 ``gap`` 说出来；其余的照到。"""
    async with two(tmp_path, redis_server, key_prefix) as both:
        await both.cut()
        push = both.far.push
        gone = await push.messages.send_message(Sender(1, "a"), BOB, "t", "c", expires_in_s=1)
        assert (await both.desk.next_message())["message_id"] == gone.message_id
        body = push._rooms.bus.redis.keys.message_body(gone.message_id)

        async def expired() -> bool:
            return not await push._rooms.bus.redis.lean.execute("EXISTS", body)

        await eventually(expired)
        kept = (await both.far.send(BOB)).message_id
        both.link.release()
        assert await both.received(1) == [kept]
        gaps = [(f["type"], f["from_seq"], f["to_seq"], f["reason"]) for f in both.phone.others]
        assert gaps == [("gap", 1, 1, "expired")]


async def test_dlv_5_what_was_evicted_meanwhile_comes_or_is_told(
    tmp_path: Path, redis_server: RedisServer, key_prefix: str
) -> None:
    """E1：还在的到手，被挤出信箱的以 ``gap`` 说出来，没有一条两样都不是。"""
    async with two(tmp_path, redis_server, key_prefix, mailbox_max_entries=2) as both:
        await both.cut()
        sent = [(await both.far.send(BOB)).message_id for _ in range(6)]
        for _ in sent:
            await both.desk.next_message()
        both.link.release()
        seqs: list[int] = []

        async def all_known() -> bool:
            told = [range(f["from_seq"], f["to_seq"] + 1) for f in both.phone.others]
            while both.phone.has_message():
                seqs.append((await both.phone.next_message())["seq"])
            return sorted([*seqs, *chain.from_iterable(told)]) == [1, 2, 3, 4, 5, 6]

        await eventually(all_known)
        assert set(both.told()) <= {"gap"}


async def test_dlv_5_a_broadcast_acked_on_another_device_meanwhile_still_comes(
    tmp_path: Path, redis_server: RedisServer, key_prefix: str
) -> None:
    """E1：广播的游标随人走，连接按日志里自己的位置补。"""
    async with two(tmp_path, redis_server, key_prefix) as both:
        await both.cut()
        sent = await both.far.push.broadcasts.send_broadcast(
            Sender(1, "a"), Draft(recipient_ids=(), title="t", content="c")
        )
        message = await both.desk.next_message()
        await both.desk.ack(message["message_id"])
        cursor = both.far.push._rooms.bus.redis.keys.broadcast_cursor(BOB)

        async def reached() -> bool:
            at = await both.far.push._rooms.bus.redis.lean.execute("HGET", cursor, "at")
            return int(at or 0) >= int(message["broadcast_id"])

        await eventually(reached)
        both.link.release()
        assert await both.received(1) == [sent.message_id]


@pytest.mark.parametrize("data", ["empty", "old"])
async def test_dlv_5_a_redis_that_lost_its_data_is_one_resync_a_device(
    tmp_path: Path, private_redis_server: RedisServer, key_prefix: str, data: str
) -> None:
    """E12：重订阅时读一遍、换了代次再读一遍，也只说一次；此后的消息照常到。"""
    redis = private_redis_server
    async with (
        running_node(tmp_path, redis.url, key_prefix, reconcile_interval_s=0.3) as node,
        device(node.ws_url(BOB), node.person(BOB)) as phone,
    ):
        await node.send(BOB)
        await phone.ack((await phone.next_message())["message_id"])
        await eventually(lambda: node.push._rooms.recovery.reconciler.statistics.generation == 1)
        if data == "old":
            await snapshot_taken(redis, node)
        redis.kill()
        restore(redis, data)
        redis.start()
        await eventually(
            lambda: node.push._rooms.recovery.reconciler.statistics.generation == 2, 20
        )
        sent = await node.send(BOB)
        while (await phone.next_message())["message_id"] != sent.message_id:
            pass  # 没确认过的从记录里又来了
        await node.push.manager.reread_all()
        await phone.round_trip()
        assert [f["reason"] for f in phone.others if f["type"] == "resync"] == ["epoch_changed"]


async def snapshot_taken(redis: RedisServer, node: Node) -> None:
    """留下此刻的 AOF；此后再往前走几个记号。"""
    shutil.copytree(redis.directory / "appendonlydir", redis.directory / "old")
    mark = await node.push._rooms.bus.redis.lean.execute(
        "HGET", node.push._rooms.bus.redis.keys.delivery_generation, "mark"
    )

    async def later() -> bool:
        now = await node.push._rooms.bus.redis.lean.execute(
            "HGET", node.push._rooms.bus.redis.keys.delivery_generation, "mark"
        )
        return int(now) >= int(mark) + 3

    await eventually(later)
    for _ in range(3):
        await node.send(BOB)


def restore(redis: RedisServer, data: str) -> None:
    redis.wipe()
    if data == "old":
        (redis.directory / "old").rename(redis.directory / "appendonlydir")
