"""普通的 Starlette WebSocket。"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from tests.support.edge_world import World, serve_asgi

from .behaviour import EdgeBehaviour
from .streaming import StreamBehaviour


class TestAsgi(EdgeBehaviour):
    def serve(self, world: World) -> AbstractAsyncContextManager[None]:
        return serve_asgi(world)


class TestAsgiStreams(StreamBehaviour):
    """SSE 的普通 ASGI 应答。"""

    def serve(self, world: World) -> AbstractAsyncContextManager[None]:
        return serve_asgi(world)
