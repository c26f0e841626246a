"""A6、A11、A13：一再被拒绝的晚些才听到；同一个地址的别人一点也不晚，关机也不等它。"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial

import pytest
from websockets.asyncio.client import connect

from meeting_push.model import Principal
from tests.support.edge_world import World
from tests.support.eventually import eventually

from .harness import EdgeHarness

_UPGRADE = (
    "Host: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)
#: 各在一扇门前就被拒绝。
_AT_THE_DOOR = {
    "not-http": b"\x1b[31m\r\n\r\n",
    "huge-head": b"GET / HTTP/1.1\r\nHost: h\r\n" + b"a: b\r\n" * 200 + b"\r\n",
    "no-such-socket": f"GET /ws/user/x/messages HTTP/1.1\r\n{_UPGRADE}\r\n".encode(),
    "elsewhere": (
        f"GET /ws/user/1/messages HTTP/1.1\r\n{_UPGRADE}Origin: https://evil\r\n\r\n".encode()
    ),
}


_DELAY_S = 0.2
_FOREVER_S = 1_000.0


class RefusingBehaviour(EdgeHarness):
    async def test_a_refused_device_hears_it_later_and_nobody_else_does(self) -> None:
        async with self.world(auth_failure_delay_s=0) as world:
            world.tire(_FOREVER_S)
            async with world.client(1, token="nonsense") as first:
                assert (await first.closed())[0] == 4500
            async with world.client(1, token="nonsense") as again:
                await eventually(lambda: world.manager.statistics().closes == {4500: 2})
                async with world.live(1):  # 同一个地址
                    assert again.websocket.close_code is None
                await world.manager.close_all()
                assert (await again.closed())[0] == 4000

    async def test_a_refused_device_that_leaves_is_forgotten(self) -> None:
        async with self.world(auth_failure_delay_s=0) as world:
            world.tire(_FOREVER_S)
            for count in (1, 2):
                async with connect(world.url(1, "?token=nonsense")) as websocket:
                    await eventually(partial(_failed, world, count))
                    websocket.transport.abort()
            await eventually(lambda: world.manager.statistics().sockets == 0)

    async def test_a_suspected_stranger_waits_before_the_upgrade_and_nobody_else_does(self) -> None:
        """KEYS：升级之后才让他等，拿了 101 就走的等不住；有效的令牌在同一个地址照样立即。"""
        async with self.world(auth_failure_delay_s=0) as world:
            world.tire(_FOREVER_S)
            world.limits.suspicious = True
            async with world.client(1, token="nonsense") as first:  # 头一个不等
                assert (await first.closed())[0] == 4500
            async with _knocking(world, 1, "?ticket=made-up") as answer:
                async with world.live(1):  # 同一个地址
                    assert not answer.done()
                assert world.manager.statistics().auth_failures == 1

    async def test_who_connects_too_fast_waits_in_his_own_line(self) -> None:
        async with self.world() as world:
            world.tire(_DELAY_S)
            world.limits.spendthrifts = {1}
            for _ in range(2):
                started = asyncio.get_running_loop().time()
                async with world.live(1):  # 等过了照样进来
                    waited = asyncio.get_running_loop().time() - started
                async with world.live(2):
                    pass
            assert waited >= _DELAY_S * 0.9

    async def test_who_leaves_before_he_is_verified_has_failed(self) -> None:
        """CONNECTS：拿了 101 就走的，验到一半就没有了，也算他一次。"""
        async with self.world() as world:
            asked = asyncio.Event()

            async def never(_ticket: str) -> Principal:
                asked.set()
                await asyncio.Event().wait()
                raise AssertionError("nobody sets it")

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(world.verifier, "redeem_ticket", never)
                async with connect(world.url(1, "?ticket=made-up")) as websocket:
                    await asked.wait()
                    websocket.transport.abort()
                await eventually(lambda: world.limits.failures == 1)

    async def test_a_stranger_who_did_not_wait_for_his_upgrade_costs_nothing(self) -> None:
        async with self.world(auth_failure_delay_s=0) as world:
            world.tire(_DELAY_S)
            world.limits.suspicious = True
            async with world.client(1, token="nonsense") as first:
                assert (await first.closed())[0] == 4500
            async with _knocking(world, 1, "?ticket=made-up"):
                pass
            await asyncio.sleep(2 * _DELAY_S)
            async with world.live(1):
                assert world.manager.statistics().sockets == 1

    @pytest.mark.parametrize("kind", _AT_THE_DOOR)
    async def test_a_refused_request_is_answered_later_and_nobody_else_is(self, kind: str) -> None:
        async with self.world() as world:
            world.tire(_DELAY_S)
            assert (await _ask(world, _AT_THE_DOOR[kind])).startswith(b"HTTP/1.1 4")
            started = asyncio.get_running_loop().time()
            again = asyncio.create_task(_ask(world, _AT_THE_DOOR[kind]))
            async with world.live(1):  # 同一个地址
                assert (await again).startswith(b"HTTP/1.1 4")
            assert asyncio.get_running_loop().time() - started >= _DELAY_S / 2


@contextlib.asynccontextmanager
async def _knocking(world: World, user_id: int, query: str) -> AsyncIterator[asyncio.Task[bytes]]:
    """要升级，等它的回答；离开时掐断。"""
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
    path = f"/ws/user/{user_id}/messages{query}"
    writer.write(f"GET {path} HTTP/1.1\r\n{_UPGRADE}\r\n".encode())
    answer = asyncio.create_task(reader.readline())
    try:
        yield answer
    finally:
        answer.cancel()
        writer.transport.abort()
        await asyncio.gather(answer, return_exceptions=True)


def _failed(world: World, count: int) -> bool:
    return world.manager.statistics().auth_failures == count


async def _ask(world: World, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
    try:
        writer.write(request)
        return await reader.read()
    finally:
        writer.transport.abort()
