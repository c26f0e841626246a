"""三种承载方式，同一套行为。"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from tests.support.edge_world import World, serve_asgi, serve_bare, serve_native_behind_uvicorn

from .arrivals import ArrivalBehaviour
from .departures import DepartureBehaviour
from .endings import EndingBehaviour


class TestAsgi(ArrivalBehaviour, DepartureBehaviour, EndingBehaviour):
    def serve(self, world: World) -> AbstractAsyncContextManager[None]:
        return serve_asgi(world)


class TestNativeBare(ArrivalBehaviour, DepartureBehaviour, EndingBehaviour):
    def serve(self, world: World) -> AbstractAsyncContextManager[None]:
        return serve_bare(world)


class TestNativeBehindUvicorn(ArrivalBehaviour, DepartureBehaviour, EndingBehaviour):
    def serve(self, world: World) -> AbstractAsyncContextManager[None]:
        return serve_native_behind_uvicorn(world)
