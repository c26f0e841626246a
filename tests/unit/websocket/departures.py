"""送客：打招呼、分散、告诉客户端在多宽的窗口里回来。"""

from __future__ import annotations

import asyncio
import contextlib
import time

from meeting_push.protocol.codes import CloseCode
from tests.support.edge_world import Client, World
from tests.unit.websocket.harness import EdgeHarness

CLIENTS = 20


async def seen_out(client: Client) -> float:
    """等到被关闭，返回那一刻。"""
    await client.closed()
    return time.monotonic()


class DepartureBehaviour(EdgeHarness):
    async def test_the_notice_never_says_now(self) -> None:
        async with self.world() as world, world.live(1) as client:
            await world.manager.evacuate(CloseCode.SERVER_DRAINING)
            notice = await client.read()
            assert (notice["type"], notice["code"]) == ("notice", "draining")
            assert notice["reconnect_after_ms"] > 0

    async def test_the_notice_tells_the_window(self) -> None:
        async with self.world() as world, world.live(1) as client:
            await world.manager.evacuate(CloseCode.SERVER_DRAINING, 2)
            assert (await client.read())["reconnect_after_ms"] == 2_000

    async def test_an_unhealthy_node_says_so(self) -> None:
        async with self.world() as world, world.live(1) as client:
            await world.manager.evacuate(CloseCode.NODE_UNHEALTHY)
            assert (await client.read())["code"] == "node_unhealthy"
            assert await client.closed() == (4007, "node_unhealthy")

    async def test_closes_are_spread_over_the_window(self) -> None:
        async with self.world() as world, contextlib.AsyncExitStack() as stack:
            clients = [await _enter(stack, world, n) for n in range(1, CLIENTS + 1)]
            leaving = [asyncio.create_task(seen_out(client)) for client in clients]
            started = time.monotonic()
            await world.manager.evacuate(CloseCode.SERVER_DRAINING, 0.4)
            ends = sorted(at - started for at in await asyncio.gather(*leaving))
            assert 0.1 <= ends[CLIENTS // 2] <= 0.7  # 机器忙时只会晚，不会早
            assert 0.3 <= ends[-1] <= 0.9

    async def test_newcomers_stay_after_an_evacuation(self) -> None:
        async with self.world() as world, world.live(1):
            await world.manager.evacuate(CloseCode.NODE_UNHEALTHY)
            async with world.live(2):
                pass

    async def test_a_refusing_node_refuses_until_told_otherwise(self) -> None:
        async with self.world() as world:
            world.manager.refuse(CloseCode.NODE_UNHEALTHY)
            async with world.client(1) as refused:
                assert await refused.closed() == (4007, "node_unhealthy")
            world.manager.refuse(None)
            async with world.live(1):
                pass


async def _enter(stack: contextlib.AsyncExitStack, world: World, user_id: int) -> Client:
    return await stack.enter_async_context(world.live(user_id))
