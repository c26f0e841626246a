"""记号还没有走、缺的又都已送达：各进程凭自己最后写的一条知道 Redis 缺了数据（DLV-1、DLV-5）。"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from meeting_push.app import MeetingPush
from meeting_push.errors import RedisUnavailableError
from meeting_push.mailbox_model import ResumePoint
from meeting_push.redis.claims import GenerationMark, RedisMark
from tests.support.eventually import eventually
from tests.support.redis_server import RedisServer

from .nodes import StartNode, copied_aof, restart_with
from .test_reconciler import BOB, confirm, holds, send

#: 只由测试来走一步。
BY_HAND = 3_600


async def tick(push: MeetingPush) -> None:
    await push._rooms.recovery.reconciler.tick()


def recoveries(push: MeetingPush) -> int:
    return push._rooms.recovery.reconciler.statistics.recoveries


async def reconnected(push: MeetingPush, break_it: Callable[[], object]) -> None:
    """弄断，等到写得进。"""
    lean = push._rooms.bus.redis.lean
    before = lean.reconnects
    await asyncio.to_thread(break_it)
    await eventually(lambda: lean.reconnects > before and lean.connected, 20)


async def test_dlv_1_a_lost_tail_that_was_all_delivered_is_noticed(
    start_node: StartNode, private_redis_server: RedisServer, tmp_path: Path
) -> None:
    async with start_node(reconcile_interval_s=BY_HAND) as push:
        await eventually(lambda: push.mailbox.generation > 0)
        first = await send(push)
        await holds(push, first)
        await confirm(push, first)
        await tick(push)
        copy = copied_aof(private_redis_server, tmp_path / "old")
        lost = await send(push)
        await holds(push, lost)
        await confirm(push, lost)
        seen = await push.mailbox.open(BOB)
        await reconnected(push, lambda: restart_with(private_redis_server, copy))
        taken_twice = await send(push)
        await holds(push, taken_twice)
        assert (await push.mailbox.open(BOB)).seq == seen.seq  # 设备会把它当成应用过的
        await tick(push)
        assert recoveries(push) == 1
        after = await push.mailbox.open(BOB, ResumePoint(seen.epoch, seen.seq))
        assert after.resync_reason == "epoch_changed"
        await holds(push, taken_twice)


async def test_a_restart_that_lost_nothing_changes_no_epoch(
    start_node: StartNode, private_redis_server: RedisServer
) -> None:
    async with start_node(reconcile_interval_s=BY_HAND) as push:
        await eventually(lambda: push.mailbox.generation > 0)
        first, second = await send(push), await send(push)
        await holds(push, first, second)
        await confirm(push, first)
        await holds(push, second)
        await reconnected(push, private_redis_server.restart)
        third = await send(push)
        await holds(push, second, third)
        await tick(push)
        assert recoveries(push) == 0


async def test_what_the_log_no_longer_holds_is_not_taken_for_lost(
    start_node: StartNode, private_redis_server: RedisServer
) -> None:
    """日志裁掉的说不准：不为它作废大家的位置。"""
    async with start_node(
        reconcile_interval_s=BY_HAND, message_log_max_entries=16, mailbox_max_entries=16
    ) as push:
        await eventually(lambda: push.mailbox.generation > 0)
        await holds(push, await send(push))
        await reconnected(push, private_redis_server.restart)
        for _ in range(40):
            await send(push)
        await eventually(lambda: _seq(push, 41), 20)
        await tick(push)
        assert recoveries(push) == 0


async def _seq(push: MeetingPush, wanted: int) -> bool:
    return (await push.mailbox.open(BOB)).seq >= wanted


async def _advanced(mark: GenerationMark) -> RedisMark | None:
    now = await mark.read()
    return now if now is not None and now.mark else None


async def test_a_doubt_of_an_older_generation_is_none(start_node: StartNode) -> None:
    async with start_node(reconcile_interval_s=BY_HAND) as push:
        mark = push._rooms.recovery.reconciler._mark
        now = await eventually(lambda: _advanced(mark))  # 启动的那一轮过去了
        assert now is not None
        assert not await mark.doubt(now.generation - 1)
        assert await mark.doubt(now.generation)
        assert not await mark.doubt(now.generation)  # 说过了
        assert not await mark.advance(now.generation, 99, 0)  # 谁也推不动
        await tick(push)
        assert recoveries(push) == 1


async def test_dlv_1_a_doubt_nobody_could_be_told_is_told_at_the_next_look(
    start_node: StartNode, private_redis_server: RedisServer, tmp_path: Path
) -> None:
    """看见它没有了，说的时候 Redis 恰好又不在：下一拍再说。"""
    async with start_node(reconcile_interval_s=BY_HAND) as push:
        reconciler = push._rooms.recovery.reconciler
        await eventually(lambda: _advanced(reconciler._mark))
        copy = copied_aof(private_redis_server, tmp_path / "old")
        await holds(push, await send(push))
        await reconnected(push, lambda: restart_with(private_redis_server, copy))
        reconciler._mark.doubt = _Away(reconciler._mark.doubt)  # type: ignore[method-assign]
        with pytest.raises(RedisUnavailableError):
            await tick(push)
        await tick(push)
        assert recoveries(push) == 1


class _Away:
    """头一次问不到。"""

    def __init__(self, doubt: Callable[[int], Awaitable[bool]]) -> None:
        self._doubt = doubt
        self._asked = 0

    async def __call__(self, generation: int) -> bool:
        self._asked += 1
        if self._asked == 1:
            raise RedisUnavailableError("away")
        return await self._doubt(generation)
