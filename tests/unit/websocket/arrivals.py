"""新来的连接：数目、快慢、失败的认证；每种驱动都继承它。"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence

from websockets.exceptions import ConnectionClosed

from tests.support.edge_world import World
from tests.support.eventually import eventually
from tests.unit.websocket.harness import EdgeHarness

STORM = 500
PER_S = 400
BURST = 100


async def come(world: World, user_id: int) -> tuple[float, int | None]:
    """连一次；返回得到答复的时刻，与关闭码（None = welcome）。"""
    async with world.client(user_id, open_timeout=30) as client:
        async with asyncio.timeout(30):
            with contextlib.suppress(ConnectionClosed):
                await client.websocket.recv()
        return time.monotonic(), client.websocket.close_code


class ArrivalBehaviour(EdgeHarness):
    async def test_more_than_a_node_holds_is_4006(self) -> None:
        async with self.world(max_connections_per_node=2) as world:
            async with world.live(1), world.live(2), world.client(3) as third:
                assert await third.closed() == (4006, "too_many_connections")
            await eventually(lambda: world.manager.statistics().sockets == 0)
            async with world.live(3):
                pass

    async def test_more_than_an_address_may_have_is_4006(self) -> None:
        limits = {"max_connections_per_address": 1}
        async with self.world(**limits) as world, world.live(1), world.client(2) as second:
            assert await second.closed() == (4006, "too_many_connections")

    async def test_zero_means_any_number_from_an_address(self) -> None:
        limits = {"max_connections_per_address": 0}
        async with self.world(**limits) as world, world.live(1), world.live(2):
            assert world.manager.statistics().connections == 2

    async def test_too_fast_for_the_queue_is_4005(self) -> None:
        limits = {"connects_per_s": 0.01, "connects_burst": 1, "connect_wait_s": 1}
        async with self.world(**limits) as world, world.live(1), world.client(2) as second:
            assert await second.closed() == (4005, "rate_limited")

    async def test_a_waiting_client_may_leave(self) -> None:
        limits = {"connects_per_s": 0.01, "connects_burst": 1, "connect_wait_s": 100}
        async with self.world(**limits) as world, world.live(1):
            async with world.client(2):
                await eventually(lambda: world.manager.statistics().waiting == 1)
            await eventually(lambda: world.manager.statistics().waiting == 0)

    async def test_a_failed_authentication_is_answered_late(self) -> None:
        async with self.world(auth_failure_delay_s=0.2) as world:
            started = time.monotonic()
            async with world.client(1, token="nonsense") as client:
                assert (await client.closed())[0] == 4500
            assert time.monotonic() - started >= 0.1

    async def test_a_reconnect_storm_is_served_evenly(self) -> None:
        limits = {"connects_per_s": PER_S, "connects_burst": BURST, "connect_wait_s": 10}
        async with self.world(**limits) as world:
            started = time.monotonic()
            answers = await asyncio.gather(*(come(world, n) for n in range(1, STORM + 1)))
            assert {code for _, code in answers} == {None}
            assert_even([at - started for at, _ in answers])


def assert_even(times: Sequence[float]) -> None:
    """任何时刻，已进来的都不多于突发加上这段时间的匀速。"""
    slack = PER_S * 0.1  # 客户端也在同一个循环里：读到得晚一点，一次读到几个
    for served, at in enumerate(sorted(times), 1):
        assert served <= BURST + at * PER_S + slack, f"{served} served after {at:.2f} s"
