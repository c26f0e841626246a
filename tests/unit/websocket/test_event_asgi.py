"""SSE 的普通 ASGI 应答。"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from tests.support.edge_world import World, serve_asgi

from .streaming import StreamBehaviour


class TestAsgiStreams(StreamBehaviour):
    def serve(self, world: World) -> AbstractAsyncContextManager[None]:
        return serve_asgi(world)
