"""会议自己的上限：慢读者、频率、字节、连接数、心跳；各起一个上限缩小的服务器。"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.meetings import Attendee, attend, hold, knock, live
from tests.support.people import Person, device, register, send
from tests.support.server_process import ServerProcess

PLENTY = {"meeting_frames_per_s": 10_000, "meeting_bytes_per_s": 100_000_000}


@contextlib.asynccontextmanager
async def deaf(server: ServerProcess, person: Person, meeting_id: str) -> AsyncIterator[Attendee]:
    """进了场，之后不再读：接收窗口很小。"""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", server.port))
    async with attend(
        server, person, meeting_id, sock=sock, max_queue=1, max_size=None, close_timeout=0.2
    ) as attendee:
        yield attendee


async def test_con_1_a_slow_reader_is_4001_and_the_others_go_on(tmp_path: Path) -> None:
    settings = {
        **PLENTY,
        "meeting_max_frame_bytes": 64 * 1024,
        "meeting_max_text_chars": 60_000,
        "meeting_outbox_max_bytes": 128 * 1024,
        "outbox_max_delay_s": 60,
    }
    with ServerProcess(tmp_path, settings=settings) as server:
        alice, bob = [await register(server.base_url, name) for name in ("alice", "bob")]
        meeting_id = await hold(server, alice, bob)
        async with (
            live(server, alice, meeting_id) as a,
            deaf(server, bob, meeting_id) as slow,
            device(server.ws_url(bob.user_id), bob) as phone,
        ):
            for number in range(200):  # 12 MB，远多于套接字的缓冲与发件箱
                await a.say("x" * 60_000, number, interim=True)
                assert (await a.read_type("segment"))["start_ms"] == number
            await a.say("还在")
            assert (await a.segments(1))[0]["seq"] == 1
            message_id = await send(server.base_url, alice, [bob])
            assert (await phone.next_message())["message_id"] == message_id
            assert await slow.closed() == 4001
        async with attend(server, bob, meeting_id) as again:  # 丢的只是连接
            assert [s["seq"] for s in await again.history()] == [1]


async def test_con_1_history_waits_for_a_slow_reader(tmp_path: Path) -> None:
    """补发多于发件箱的历史不算慢：读得动多少给多少。"""
    settings = {
        **PLENTY,
        "meeting_max_frame_bytes": 64 * 1024,
        "meeting_max_text_chars": 60_000,
        "meeting_outbox_max_bytes": 1024,
    }
    with ServerProcess(tmp_path, settings=settings) as server:
        alice = await register(server.base_url, "alice")
        meeting_id = await hold(server, alice)
        async with live(server, alice, meeting_id) as a:
            for number in range(200):
                await a.say("x" * 60_000, number)
                await a.segments(1)
        async with deaf(server, alice, meeting_id) as slow:
            assert [s["seq"] for s in await slow.history()] == list(range(1, 201))


async def test_too_many_frames_are_refused_then_4005(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, settings={"meeting_frames_per_s": 2}) as server:
        alice = await register(server.base_url, "alice")
        meeting_id = await hold(server, alice)
        async with live(server, alice, meeting_id) as a:
            for number in range(30):
                await a.say(f"{number}", request_id=number)
            error = await a.read_type("error")
            assert (error["code"], error["temporary"]) == ("rate_limited", True)
            assert error["request_id"] == 4  # 突发两秒的量：四帧
            assert await a.closed() == 4005


async def test_too_many_bytes_are_refused(tmp_path: Path) -> None:
    settings = {"meeting_bytes_per_s": 1024, "meeting_max_frame_bytes": 4096}
    with ServerProcess(tmp_path, settings=settings) as server:
        alice = await register(server.base_url, "alice")
        meeting_id = await hold(server, alice)
        async with live(server, alice, meeting_id) as a:
            await a.say("x" * 3_000)
            await a.say("x" * 3_000)
            assert (await a.read_type("error"))["code"] == "rate_limited"


async def test_a_full_meeting_is_4006(tmp_path: Path) -> None:
    settings = {"meeting_max_connections": 2, "meeting_leave_grace_s": 0}
    with ServerProcess(tmp_path, settings=settings) as server:
        alice = await register(server.base_url, "alice")
        meeting_id, other = await hold(server, alice), await hold(server, alice)
        async with live(server, alice, meeting_id), live(server, alice, meeting_id) as second:
            async with knock(server, alice, meeting_id) as third:
                assert await third.closed() == 4006
            async with live(server, alice, other):
                pass
            await second.socket.close()
            async with live(server, alice, meeting_id):
                pass


async def test_silence_is_4003(tmp_path: Path) -> None:
    with ServerProcess(
        tmp_path, settings={"heartbeat_interval_s": 0.1, "heartbeat_timeout_s": 0.3}
    ) as server:
        alice = await register(server.base_url, "alice")
        async with live(server, alice, await hold(server, alice)) as a:
            assert await a.closed() == 4003


async def test_draining_is_4000_and_what_was_taken_is_kept(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, settings=PLENTY) as server:
        alice = await register(server.base_url, "alice")
        meeting_id = await hold(server, alice)
        async with live(server, alice, meeting_id) as a:
            for number in range(20):
                await a.say(f"{number}", request_id=number)
            last = [(await a.read_type("segment_result"))["seq"] for _ in range(20)][-1]
            leaving = asyncio.create_task(asyncio.to_thread(server.terminate))
            assert await a.closed() == 4000
            assert await leaving == 0
        server.start()
        async with attend(server, alice, meeting_id) as again:
            assert [s["seq"] for s in await again.history()] == list(range(1, last + 1))


async def test_a11_one_participant_can_not_keep_the_organizer_out(tmp_path: Path) -> None:
    """A11：每个参与者有自己的一份；召开者总进得来，别人占满了他的也一样。"""
    settings = {"meeting_max_connections": 7}
    with ServerProcess(tmp_path, settings=settings) as server:
        alice, bob, carol = [await register(server.base_url, n) for n in ("alice", "bob", "carol")]
        meeting_id = await hold(server, alice, bob, carol)
        async with contextlib.AsyncExitStack() as crowd:
            for _ in range(2):
                await crowd.enter_async_context(live(server, bob, meeting_id))
            for _ in range(3):
                async with knock(server, bob, meeting_id) as more:
                    assert await more.closed() == 4006
            async with live(server, carol, meeting_id), live(server, alice, meeting_id):
                pass


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"max_devices_per_user": 3}, 4006),
        ({"max_connections_per_address": 3}, 4006),
        ({"connects_per_s": 0.001, "connects_burst": 3, "connect_wait_s": 0}, 4005),
    ],
)
async def test_a11_meeting_sockets_count_with_the_others(
    tmp_path: Path, settings: dict[str, object], code: int
) -> None:
    """A11：会议的连接与用户的连接合在一起算，从哪扇门进来都不多得一份。"""
    with ServerProcess(tmp_path, settings=settings) as server:
        alice = await register(server.base_url, "alice")
        first, second = await hold(server, alice), await hold(server, alice)
        async with (
            device(server.ws_url(alice.user_id), alice),
            live(server, alice, first),
            live(server, alice, second),
            knock(server, alice, second) as fourth,
        ):
            assert await fourth.closed() == code
        url = server.ws_url(alice.user_id)
        if code == 4006:  # 走了的还回来
            async with device(url, alice), live(server, alice, first):
                pass


async def test_a11_a_replaced_meeting_socket_is_4505(tmp_path: Path) -> None:
    """A11：最新的设备优先时，会议里最早的也会被请走；同一台设备的用户连接不受它影响。"""
    settings = {"max_devices_per_user": 2, "device_policy": "evict_oldest"}
    with ServerProcess(tmp_path, settings=settings) as server:
        alice = await register(server.base_url, "alice")
        meeting_id = await hold(server, alice)
        async with (
            live(server, alice, meeting_id) as oldest,
            device(server.ws_url(alice.user_id, device_id="d"), alice),
            live(server, alice, meeting_id, query={"device_id": "d"}),
        ):
            assert await oldest.closed() == 4505
