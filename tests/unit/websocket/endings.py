"""怎样结束的：每条连接数一次，谁先说的算；每种驱动都继承它。"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from meeting_push.model import FailureCause, Revocation
from meeting_push.protocol.codes import CloseCode, Ending
from tests.support.edge_world import Client, World
from tests.support.eventually import eventually
from tests.unit.websocket.harness import EdgeHarness

Leave = Callable[[World, Client], Awaitable[None]]


async def says_goodbye(_world: World, client: Client) -> None:
    await client.websocket.close(1000)


async def goes_away(_world: World, client: Client) -> None:
    await client.websocket.close(1001)


async def fails(_world: World, client: Client) -> None:
    await client.websocket.close(1011)


async def vanishes(_world: World, client: Client) -> None:
    client.websocket.transport.abort()


async def is_drained(world: World, _client: Client) -> None:
    await world.manager.evacuate(CloseCode.SERVER_DRAINING)


async def is_sent_elsewhere(world: World, _client: Client) -> None:
    await world.manager.evacuate(CloseCode.NODE_UNHEALTHY)


async def is_revoked(world: World, _client: Client) -> None:
    world.manager.disconnect_revoked(Revocation(1, world.manager.clock() + 1))


class EndingBehaviour(EdgeHarness):
    @pytest.mark.parametrize(
        ("leave", "ending"),
        [
            (says_goodbye, Ending.NORMAL),
            (goes_away, Ending.GOING_AWAY),
            (fails, Ending.ABNORMAL),
            (vanishes, Ending.ABRUPT),
            (is_drained, Ending.OURS_ON_PURPOSE),
            (is_sent_elsewhere, Ending.OURS_OTHER),
        ],
    )
    async def test_an_end_is_counted_once_by_how(self, leave: Leave, ending: Ending) -> None:
        async with self.world() as world:
            async with world.live(1) as client:
                await leave(world, client)
                await eventually(lambda: world.manager.statistics().sockets == 0)
            assert world.manager.statistics().endings == {ending: 1}

    @pytest.mark.parametrize(
        ("leave", "left"),
        [
            (says_goodbye, None),
            (fails, FailureCause.CLIENT),
            (vanishes, FailureCause.NETWORK),
            (is_revoked, FailureCause.AUTHENTICATION),
            (is_drained, None),
        ],
    )
    async def test_presence_hears_what_the_end_says(
        self, leave: Leave, left: FailureCause | None
    ) -> None:
        async with self.world() as world:
            async with world.live(1) as client:
                await leave(world, client)
                await eventually(lambda: world.manager.statistics().connections == 0)
            assert world.presence.left == [left]

    async def test_a_heartbeat_that_does_not_come_is_an_end_of_its_own(self) -> None:
        limits = {"heartbeat_interval_s": 0.1, "heartbeat_timeout_s": 0.2}
        async with self.world(**limits) as world, world.live(1) as client:
            assert (await client.closed())[0] == CloseCode.HEARTBEAT_TIMEOUT
            await client.websocket.close()
            await eventually(lambda: world.manager.statistics().sockets == 0)
            assert world.manager.statistics().endings == {Ending.HEARTBEAT_TIMEOUT: 1}
