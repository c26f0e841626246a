"""断开的连接立即消失，不等垃圾回收：几千条一起断开时，一次长的回收会让所有人停几百毫秒。"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest
from picows.picows import WSProtocol  # type: ignore[attr-defined]  # 存根里没有它

from meeting_push.http.patient_http import PatientHttp
from meeting_push.websocket.connection import UserConnection
from meeting_push.websocket.front import Front
from meeting_push.websocket.native import NativeSocket
from tests.support.edge_world import World, serve_bare, serve_native_behind_uvicorn
from tests.support.eventually import eventually

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
            assert _left_behind() == {}
        finally:
            gc.enable()


async def _come_and_go(world: World) -> None:
    async with world.live(1):
        pass
    await eventually(lambda: world.manager.statistics().sockets == 0)


def _left_behind() -> Counter[str]:
    """只有垃圾回收才收得走的、我们的对象。"""
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        gc.collect()
        return Counter(type(each).__name__ for each in gc.garbage if isinstance(each, _OURS))
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
