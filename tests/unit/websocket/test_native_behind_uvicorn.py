"""picows 与 uvicorn 共用一个端口。"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from tests.support.edge_world import World, serve_native_behind_uvicorn

from .behaviour import EdgeBehaviour


class TestNativeBehindUvicorn(EdgeBehaviour):
    def serve(self, world: World) -> AbstractAsyncContextManager[None]:
        return serve_native_behind_uvicorn(world)
