"""随机交错的打开、关闭、心跳、崩溃、收拾、对账之后，计数与一个最简单的模型一致。"""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, Phase
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)

from meeting_push.model import PresenceStatus
from meeting_push.presence.online_status_service import OnlineStatusService
from meeting_push.redis.presence import overall_status
from tests.support.redis_server import RedisServer

from .nodes import ABSENT, crash, info, node, stored

USERS = range(1, 5)
SLOTS = range(3)
STEPS = 50
EXAMPLES = 20
users, slots = st.sampled_from(USERS), st.sampled_from(SLOTS)
statuses: st.SearchStrategy[PresenceStatus] = st.sampled_from(["active", "away", "busy"])


class PresenceModel(RuleBasedStateMachine):
    """三个席位，各坐一个节点；崩溃后换一个新的。模型是（席位, 用户, 连接）→ 状态。"""

    server: RedisServer

    def __init__(self) -> None:
        super().__init__()
        self.names = (f"c{n}" for n in itertools.count())
        self.model: dict[tuple[int, int, str], PresenceStatus] = {}

    @initialize()
    def begin(self) -> None:
        self.runner = asyncio.Runner()
        self.runner.run(self._begin())

    async def _begin(self) -> None:
        self.redis = self.server.service(f"test-{uuid4().hex[:12]}:")
        await self.redis.start()
        self.nodes = [await node(self.redis) for _ in SLOTS]

    def teardown(self) -> None:
        self.runner.run(self._compare_keys())
        self.runner.run(self.redis.close())
        self.runner.close()

    def _some(self, slot: int) -> tuple[int, str] | None:
        """这个席位上最早的一条连接。"""
        return next(((user, name) for at, user, name in self.model if at == slot), None)

    @rule(slot=slots, user=users, status=statuses)
    def open(self, slot: int, user: int, status: PresenceStatus) -> None:
        name = next(self.names)
        self.nodes[slot].ledger.connection_opened(user, info(name, status))
        self.model[slot, user, name] = status

    @rule(slot=slots)
    def close(self, slot: int) -> None:
        if found := self._some(slot):
            self.nodes[slot].ledger.connection_closed(*found)
            del self.model[slot, *found]

    @rule(slot=slots, status=statuses)
    def change_status(self, slot: int, status: PresenceStatus) -> None:
        if found := self._some(slot):
            self.nodes[slot].ledger.status_changed(*found, status, None)
            self.model[slot, *found] = status

    @rule(slot=slots)
    def heartbeat(self, slot: int) -> None:
        if found := self._some(slot):
            self.nodes[slot].ledger.heartbeat(*found, info("x").last_heartbeat)

    @rule(slot=slots)
    def flush(self, slot: int) -> None:
        self.runner.run(self.nodes[slot].flush())

    @rule(slot=slots)
    def crash(self, slot: int) -> None:
        self.runner.run(self._crash(slot))

    async def _crash(self, slot: int) -> None:
        await crash(self.redis, self.nodes[slot])
        self.nodes[slot] = await node(self.redis)
        self.model = {key: value for key, value in self.model.items() if key[0] != slot}

    @rule(slot=slots)
    def reap(self, slot: int) -> None:
        self.runner.run(self.nodes[slot].reaper.sweep())

    @rule(slot=slots)
    def reconcile(self, slot: int) -> None:
        self.runner.run(self.nodes[slot].reconciler.sweep())

    @rule(slot=slots)
    def lose_the_lease(self, slot: int) -> None:
        """停顿过久又醒来：租约断过，续上后整个重写。"""
        self.runner.run(self._lose(self.nodes[slot]))

    async def _lose(self, one: OnlineStatusService) -> None:
        await crash(self.redis, one)
        await self.nodes[0].reaper.sweep()
        assert not await one._renew()
        one.resync()

    @rule()
    def reads_equal_the_model(self) -> None:
        self.runner.run(self._compare_reads())

    async def _compare_reads(self) -> None:
        for one in self.nodes:
            await one.flush()
        expected: dict[int, list[PresenceStatus]] = defaultdict(list)
        for (_, user, _), status in self.model.items():
            expected[user].append(status)
        reader = self.nodes[0]
        assert await reader.get_online_users() == sorted(expected)
        for user in USERS:
            found = await reader.get_user_connections(user)
            assert sorted(one.status for one in found) == sorted(expected[user])
            assert await reader.statuses([user]) == [overall_status(found)]

    @rule()
    def the_keys_equal_the_model_once_reaped(self) -> None:
        self.runner.run(self._compare_keys())

    async def _compare_keys(self) -> None:
        await self._compare_reads()
        await self.nodes[0].reaper.sweep()
        for user in USERS:
            count = sum(key[1] == user for key in self.model)
            assert await stored(self.redis, user) == (
                (count, count, True, True) if count else ABSENT
            )


@pytest.mark.timeout(300)  # 二十段历史，每一步都是几次往返
def test_counts_equal_a_model_after_random_interleavings(redis_server: RedisServer) -> None:
    machine = type("Machine", (PresenceModel,), {"server": redis_server})
    run_state_machine_as_test(
        machine,
        settings=hypothesis_settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        ),
    )
