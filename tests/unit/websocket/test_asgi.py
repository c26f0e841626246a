"""普通的 Starlette WebSocket。"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from meeting_push.monitoring.edge_samples import edge_samples
from tests.support.edge_world import World, serve_asgi
from tests.support.eventually import eventually

from .behaviour import EdgeBehaviour
from .streaming import StreamBehaviour


class TestAsgi(EdgeBehaviour):
    def serve(self, world: World) -> AbstractAsyncContextManager[None]:
        return serve_asgi(world)

    async def test_what_carries_a_connection_is_counted(self) -> None:
        async with self.world() as world:
            async with world.live(1), world.live(2), world.stream(3) as stream:
                await stream.read()
                found = list(edge_samples(world.manager.statistics()))
                ways = [one for one in found if one.name == "connections_by_transport"]
                counted = {one.labels["transport"]: one.value for one in ways}
                assert counted == {"native": 0, "asgi": 2, "sse": 1}
            await eventually(lambda: world.manager.statistics().sockets == 0)
            assert world.manager.relayed == set()


class TestAsgiStreams(StreamBehaviour):
    """SSE 的普通 ASGI 应答。"""

    def serve(self, world: World) -> AbstractAsyncContextManager[None]:
        return serve_asgi(world)
