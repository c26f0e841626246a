"""对账怎样救回广播（DLV-1）：死在每一步之间、旧的 AOF、丢了一小段尾巴。"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from meeting_push.app import MeetingPush
from meeting_push.broadcast.service import BroadcastRelay
from meeting_push.errors import UnavailableError
from meeting_push.model import Draft, Sender
from meeting_push.recovery.broadcasts import BroadcastRecovery
from meeting_push.storage.broadcasts import BroadcastRepository
from tests.support.eventually import eventually
from tests.support.redis_server import RedisServer

from .nodes import StartNode, copied_aof, marked, restart_with

BOB = 2
DRAFT = Draft(recipient_ids=(), title="t", content="c")


async def logged(push: MeetingPush, *message_ids: str) -> None:
    """等到日志里恰是这些。"""

    async def exactly() -> bool:
        with contextlib.suppress(UnavailableError):  # Redis 还没有回来
            found = await push._rooms.bus.redis.lean.execute(
                "ZRANGE", push._rooms.bus.redis.keys.broadcast_ids, 0, -1
            )
            return [each.decode() for each in found] == list(message_ids)
        return False

    await eventually(exactly, 20)


async def send(push: MeetingPush, earlier: tuple[str, ...] = ()) -> str:
    """发一条，等到它进了日志、记录也知道。"""
    message_id = (await push.broadcasts.send_broadcast(Sender(900, "root"), DRAFT)).message_id
    await logged(push, *earlier, message_id)
    record = BroadcastRepository(push._rooms.record.database)

    async def recorded() -> bool:
        return message_id in await record.logged(0, 0)

    await eventually(recorded)
    return message_id


async def pending(push: MeetingPush, user_id: int = BOB) -> list[str]:
    """他此刻连上会得到的。"""
    feed = push._rooms.broadcasts.feed
    await feed.refresh()
    return [entry.message_id for entry in (await feed.open(user_id)).entries]


async def recovered(push: MeetingPush) -> None:
    async def finished() -> bool:
        row = await push._rooms.recovery.reconciler._generations.read()
        return row is not None and row.generation > 1 and row.cursor is None

    await eventually(finished, 20)


@pytest.mark.parametrize(
    "step", [(BroadcastRecovery, "reopen"), (BroadcastRelay, "_send")], ids=["reopen", "log"]
)
async def test_dlv_1_the_next_node_does_the_step_the_dead_one_died_before(
    start_node: StartNode, monkeypatch: pytest.MonkeyPatch, step: tuple[type, str]
) -> None:
    died = asyncio.Event()

    async def die(*_: object) -> None:
        died.set()
        await asyncio.Event().wait()

    with monkeypatch.context() as patched:
        async with start_node() as first:
            await pending(first)
            message_id = await send(first)
            await marked(first)
            patched.setattr(*step, die)
            await first._rooms.bus.redis.lean.execute("FLUSHALL")
            await asyncio.wait_for(died.wait(), 20)
            if step[0] is BroadcastRelay:
                record = BroadcastRepository(first._rooms.record.database)

                async def reopened() -> bool:
                    return await record.logged(0, 0) == []

                await eventually(reopened, 20)
            assert await first._rooms.recovery.reconciler._generations.lease(
                first.node_id, 0, 1
            )  # 租约早已到期
    async with start_node() as second:
        await logged(second, message_id)
        await recovered(second)
        assert await pending(second) == [message_id]


async def test_dlv_1_an_old_aof_keeps_its_numbers_and_gets_back_the_rest(
    start_node: StartNode, private_redis_server: RedisServer, tmp_path: Path
) -> None:
    async with start_node() as push:
        await pending(push)
        old = await send(push)
        number = await push._rooms.bus.redis.lean.execute(
            "ZSCORE", push._rooms.bus.redis.keys.broadcast_ids, old
        )
        copy = copied_aof(private_redis_server, tmp_path / "old")
        new = await send(push, (old,))
        await marked(push)
        restart_with(private_redis_server, copy)
        await eventually(lambda: push._rooms.bus.redis.lean.connected)
        await logged(push, old, new)
        await recovered(push)
        assert await pending(push) == [old, new]
        same = await push._rooms.bus.redis.lean.execute(
            "ZSCORE", push._rooms.bus.redis.keys.broadcast_ids, old
        )
        assert same == number


async def test_dlv_1_a_lost_tail_shorter_than_a_mark_is_found_by_a_broadcast(
    start_node: StartNode, private_redis_server: RedisServer
) -> None:
    async with start_node() as push:
        await pending(push)
        kept = await send(push)
        lost = await send(push, (kept,))
        await marked(push)
        keys, lean = push._rooms.bus.redis.keys, push._rooms.bus.redis.lean
        await lean.execute("ZREM", keys.broadcast_ids, lost)
        [[entry, _]] = await lean.execute("XREVRANGE", keys.broadcast_log, "+", "-", "COUNT", 1)
        await lean.execute("XDEL", keys.broadcast_log, entry)
        private_redis_server.restart()
        await logged(push, kept, lost)


async def test_a_restart_with_everything_logs_nothing_again(
    start_node: StartNode, private_redis_server: RedisServer
) -> None:
    async with start_node() as push:
        await pending(push)
        message_id = await send(push)
        await marked(push)
        private_redis_server.restart()
        await eventually(
            lambda: push._rooms.bus.redis.lean.reconnects and push._rooms.bus.redis.lean.connected
        )
        await marked(push)
        await eventually(
            lambda: (
                push._rooms.recovery.reconciler._run_id
                and push._rooms.recovery.reconciler._suspect is None
            ),
            20,
        )
        assert await pending(push) == [message_id]
        assert push._rooms.recovery.reconciler.statistics.recoveries == 0


async def test_what_each_user_acked_is_left_out_page_by_page(
    start_node: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meeting_push.recovery.broadcasts.PAGE_USERS", 2)
    users = range(10, 15)
    async with start_node() as push:
        one = await send(push)
        two = await send(push, (one,))
        for user_id in users:
            await push._rooms.broadcasts.acks.confirm(user_id, [two], 1)

        async def acked() -> bool:
            return await push.broadcasts.delivered_count(two) == len(users)

        await eventually(acked)
        await marked(push)
        await push._rooms.bus.redis.lean.execute("FLUSHALL")
        await logged(push, one, two)
        await recovered(push)
        assert [await pending(push, user_id) for user_id in users] == [[one]] * len(users)


async def test_logging_again_stops_when_another_node_has_the_lease(start_node: StartNode) -> None:
    async with start_node() as push:
        one = await send(push)
        rooms, record = push._rooms.broadcasts, BroadcastRepository(push._rooms.record.database)
        await record.record_delivered([(one, BOB, 1)])

        async def lost_the_lease() -> bool:
            return False

        recovery = BroadcastRecovery(record, rooms.log, rooms.relay)
        assert not await recovery.restore_acks(lost_the_lease)


async def test_a_new_user_after_a_loss_has_what_has_not_expired(start_node: StartNode) -> None:
    async with start_node() as push:
        message_id = await send(push)
        await marked(push)
        assert await pending(push, 3) == []
        await push._rooms.bus.redis.lean.execute("FLUSHALL")
        await logged(push, message_id)
        await recovered(push)
        assert await pending(push, 4) == [message_id]
