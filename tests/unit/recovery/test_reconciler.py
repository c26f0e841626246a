"""对账（DLV-1）：Redis 丢了数据，没送达的从 SQL 重新投递，已送达的不再来，epoch 改变。"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest
from loguru import logger
from redis import Redis

from meeting_push.app import MeetingPush
from meeting_push.errors import UnavailableError
from meeting_push.mailbox_model import ResumePoint
from meeting_push.model import Sender
from meeting_push.recovery.reconciler import Reconciler
from tests.support.eventually import eventually
from tests.support.redis_server import RedisServer

from .nodes import StartNode, copied_aof, marked, restart_with, wipe

ALICE, BOB, CAROL = Sender(1, "alice"), 2, 3


async def send(push: MeetingPush, user_id: int = BOB) -> str:
    return (await push.messages.send_message(ALICE, user_id, "t", "c")).message_id


async def held(push: MeetingPush, user_id: int = BOB) -> set[str]:
    return {one.tail.message_id for one in await push.mailbox.get_offline_messages(user_id)}


async def holds(push: MeetingPush, *message_ids: str, user_id: int = BOB) -> None:
    async def exactly() -> bool:
        with contextlib.suppress(UnavailableError):  # Redis 还没有回来
            return await held(push, user_id) == set(message_ids)
        return False

    await eventually(exactly, timeout=20)


async def confirm(push: MeetingPush, message_id: str) -> None:
    await push.confirmation.confirm(BOB, [message_id])

    async def recorded() -> bool:
        counts, _ = await push.confirmation.get_message_delivery_status(message_id)
        return counts.delivered == 1 and message_id not in await held(push)

    await eventually(recorded)


async def recovered(push: MeetingPush, times: int = 1) -> None:
    await eventually(
        lambda: push._rooms.recovery.reconciler.statistics.recoveries == times, timeout=20
    )

    async def finished() -> bool:
        row = await push._rooms.recovery.reconciler._generations.read()
        return row is not None and row.cursor is None

    await eventually(finished, timeout=20)


async def test_dlv_1_flushall_while_running(start_node: StartNode) -> None:
    async with start_node() as push:
        delivered, waiting = await send(push), await send(push)
        other = await send(push, CAROL)
        await holds(push, delivered, waiting)
        await confirm(push, delivered)
        await marked(push)
        before = await push.mailbox.open(BOB)
        await push._rooms.bus.redis.lean.execute("FLUSHALL")
        await recovered(push)
        await holds(push, waiting)
        await holds(push, other, user_id=CAROL)
        after = await push.mailbox.open(BOB, ResumePoint(before.epoch, before.seq))
        assert after.resync_reason == "epoch_changed"
        await holds(push, await send(push), waiting)


async def test_dlv_1_redis_restarted_with_an_empty_folder(
    start_node: StartNode, private_redis_server: RedisServer
) -> None:
    async with start_node() as push:
        waiting = await send(push)
        await holds(push, waiting)
        await marked(push)
        private_redis_server.kill()
        wipe(private_redis_server.directory)
        during = await send(push)
        private_redis_server.start()
        await holds(push, waiting, during)


async def test_dlv_1_redis_restarted_with_an_old_aof(
    start_node: StartNode, private_redis_server: RedisServer, tmp_path: Path
) -> None:
    async with start_node() as push:
        before, delivered = await send(push), await send(push)
        await holds(push, before, delivered)
        copy = copied_aof(private_redis_server, tmp_path / "old")
        await confirm(push, delivered)
        after = await send(push)
        await holds(push, before, after)
        seen = await push.mailbox.open(BOB)
        await marked(push)
        restart_with(private_redis_server, copy)
        await recovered(push)
        await holds(push, before, after)
        view = await push.mailbox.open(BOB, ResumePoint(seen.epoch, seen.seq))
        assert view.resync_reason == "epoch_changed"


async def test_dlv_1_a_restart_with_everything_changes_nothing(
    start_node: StartNode, private_redis_server: RedisServer
) -> None:
    async with start_node() as push:
        waiting = await send(push)
        await holds(push, waiting)
        await marked(push)
        before = await push.mailbox.open(BOB)
        private_redis_server.restart()
        await eventually(
            lambda: push._rooms.bus.redis.lean.reconnects and push._rooms.bus.redis.lean.connected
        )
        await marked(push)
        view = await push.mailbox.open(BOB, ResumePoint(before.epoch, before.seq))
        assert (view.resumed, view.epoch) == (True, before.epoch)
        assert push._rooms.recovery.reconciler.statistics.recoveries == 0


async def test_dlv_1_a_lost_tail_shorter_than_a_mark_is_found_by_its_traces(
    start_node: StartNode, private_redis_server: RedisServer
) -> None:
    async with start_node() as push:
        kept = await send(push)
        await holds(push, kept)
        lost = await send(push)
        await holds(push, kept, lost)
        await marked(push)
        keys = push._rooms.bus.redis.keys
        await push._rooms.bus.redis.lean.execute("ZREM", keys.mailbox(BOB), lost)
        await push._rooms.bus.redis.lean.execute("ZREM", keys.message_log(BOB), lost)
        private_redis_server.restart()
        await recovered(push)
        await holds(push, kept, lost)


async def test_dlv_1_a_straggler_is_found_and_driven_again(start_node: StartNode) -> None:
    # 宽限期长：机器慢时扫描会再入队一次，替我们补上抹掉的
    async with start_node(straggler_after_s=0.001, relay_grace_s=3600) as push:
        lost = await send(push)
        await holds(push, lost)
        await push._rooms.messages.relay.mark()
        before = push._rooms.recovery.reconciler.statistics.stragglers
        await push._rooms.bus.redis.client.delete(
            push._rooms.bus.redis.keys.mailbox(BOB), push._rooms.bus.redis.keys.message_log(BOB)
        )

        async def found() -> bool:  # 由我们，或由节点自己正好在看的那一遍
            await push._rooms.recovery.reconciler.look_for_stragglers()
            return push._rooms.recovery.reconciler.statistics.stragglers > before

        await eventually(found)
        await holds(push, lost)


async def test_b8_what_was_in_a_mailbox_that_is_gone_is_driven_again(start_node: StartNode) -> None:
    """B8：信箱的键没了（被淘汰、被删掉），日志还在：以新的 seq 重新投递，续传的听到 resync。"""
    async with start_node(straggler_after_s=0.001, relay_grace_s=3600) as push:
        lost = await send(push)
        await holds(push, lost)
        await push._rooms.messages.relay.mark()
        old = await push.mailbox.open(BOB)
        await push._rooms.bus.redis.client.delete(push._rooms.bus.redis.keys.mailbox(BOB))

        async def found() -> bool:
            await push._rooms.recovery.reconciler.look_for_stragglers()
            return lost in await push.mailbox.message_ids(BOB)

        await eventually(found)
        new = await push.mailbox.open(BOB)
        assert [(e.message_id, e.seq) for e in new.entries] == [(lost, old.seq + 1)]
        resumed = await push.mailbox.open(BOB, ResumePoint(old.epoch, old.seq - 1))
        assert resumed.resync_reason == "too_far_behind"


async def test_b8_only_what_was_lost_is_driven_again(start_node: StartNode) -> None:
    async with start_node(straggler_after_s=0.001, relay_grace_s=3600) as push:
        kept = await send(push)
        await holds(push, kept)
        await push._rooms.messages.relay.mark()
        before = await push.mailbox.open(BOB)
        assert await push._rooms.recovery.reconciler.look_for_stragglers() == 0
        assert await push.mailbox.open(BOB) == before


async def test_b8_a_redis_that_evicts_is_warned_of_at_start(
    start_node: StartNode, private_redis_server: RedisServer
) -> None:
    """B8：``allkeys-lru`` 会悄悄拿走信箱。"""
    lines: list[str] = []
    sink = logger.add(lambda message: lines.append(str(message)), format="{message} {extra}")
    try:
        for policy, warned in (
            ("noeviction", False),
            ("allkeys-lru", True),
            ("volatile-ttl", True),
        ):
            lines.clear()
            with Redis.from_url(private_redis_server.url) as admin:
                admin.config_set("maxmemory-policy", policy)
            async with start_node():
                assert any("redis_may_evict" in line for line in lines) is warned
    finally:
        logger.remove(sink)


async def test_a_delivered_message_is_no_straggler(start_node: StartNode) -> None:
    async with start_node(straggler_after_s=0.001) as push:
        one = await send(push)
        await holds(push, one)
        await confirm(push, one)
        await push._rooms.messages.relay.mark()
        assert await push._rooms.recovery.reconciler.look_for_stragglers() == 0


async def test_a_new_database_behind_an_old_redis_starts_a_new_generation(
    start_node: StartNode, tmp_path: Path
) -> None:
    async with start_node() as push:
        before = await push.mailbox.open(BOB)
    async with start_node(database_url=f"sqlite:///{tmp_path}/new.db") as push:
        view = await push.mailbox.open(BOB, ResumePoint(before.epoch, before.seq))
        assert view.resync_reason == "epoch_changed"


async def test_exactly_one_node_recovers(start_node: StartNode) -> None:
    async with start_node() as first, start_node() as second:
        waiting = await send(first)
        await holds(first, waiting)
        await marked(first)
        await first._rooms.bus.redis.lean.execute("FLUSHALL")
        await holds(second, waiting)
        nodes = [
            first._rooms.recovery.reconciler.statistics,
            second._rooms.recovery.reconciler.statistics,
        ]
        assert sum(one.recoveries for one in nodes) == 1
        await eventually(lambda: first.mailbox.generation == second.mailbox.generation == 2)


async def test_dlv_1_the_next_node_goes_on_where_the_dead_one_stopped(
    start_node: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    died = asyncio.Event()

    async def die(*_: object) -> None:
        died.set()
        await asyncio.Event().wait()

    with monkeypatch.context() as patched:
        async with start_node() as first:
            waiting = await send(first)
            await holds(first, waiting)
            await marked(first)
            patched.setattr(Reconciler, "_redrive", die)
            await first._rooms.bus.redis.lean.execute("FLUSHALL")
            await asyncio.wait_for(died.wait(), 20)
            await first._rooms.record.database.ping()
            generations = first._rooms.recovery.reconciler._generations
            assert await generations.lease(first.node_id, 0, 1)  # 租约早已到期
    async with start_node() as second:
        await holds(second, waiting)
        assert second._rooms.recovery.reconciler.statistics.recoveries == 0


async def test_con_4_a_full_redis_defers_and_loses_nothing(start_node: StartNode) -> None:
    async with start_node() as push:
        await marked(push)
        await push._rooms.bus.redis.lean.execute("CONFIG", "SET", "maxmemory", "1mb")
        sent = [await send(push) for _ in range(20)]
        assert await held(push) < set(sent)
        await push._rooms.bus.redis.lean.execute("CONFIG", "SET", "maxmemory", 0)
        await holds(push, *sent)
        assert push._rooms.recovery.reconciler.statistics.recoveries == 0
