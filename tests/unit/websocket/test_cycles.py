"""断开的连接立即消失，不等垃圾回收：几千条一起断开时，一次长的回收会让所有人停几百毫秒。"""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest
from picows.picows import WSProtocol  # type: ignore[attr-defined]  # 存根里没有它

from meeting_push.http.patient_http import PatientHttp
from meeting_push.websocket.front import Front
from meeting_push.websocket.line import UserConnection
from meeting_push.websocket.native import NativeSocket
from tests.support.edge_world import World, serve_bare, serve_native_behind_uvicorn
from tests.support.eventually import eventually
from tests.support.garbage import left_behind

_OURS = (UserConnection, NativeSocket, Front, PatientHttp, WSProtocol)
Serve = Callable[[World], AbstractAsyncContextManager[None]]


@pytest.mark.parametrize("serve", [serve_bare, serve_native_behind_uvicorn])
async def test_a_connection_that_ends_leaves_no_cycles(serve: Serve) -> None:
    world = World()
    async with serve(world):
        await _come_and_go(world)  # 首次使用才造的东西不算
        gc.collect()
        gc.disable()
        try:
            for _ in range(5):
                await _come_and_go(world)
            assert left_behind(_OURS) == {}
        finally:
            gc.enable()


async def _come_and_go(world: World) -> None:
    async with world.live(1):
        pass
    await eventually(lambda: world.manager.statistics().sockets == 0)
