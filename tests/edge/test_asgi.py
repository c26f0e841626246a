"""普通的 Starlette WebSocket。"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from .behaviour import EdgeBehaviour
from .world import World, serve_asgi


class TestAsgi(EdgeBehaviour):
    def serve(self, world: World) -> AbstractAsyncContextManager[None]:
        return serve_asgi(world)
