"""服务器的提示，两条路之间：照剧本演的服务器 × 每一个 SDK，同样的断言。"""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest

from tests.support.eventually import eventually
from tests.support.scripted_server import (
    Peer,
    Refusal,
    Signal,
    StreamPeer,
    new_message,
    playing,
    stay,
)

from .adapter import Sdk
from .scenes import FOREVER, closing, ids, telling

pytestmark = pytest.mark.timeout(180)

# ── 提示，两条路 ────────────────────────────────────────────────────────────


async def test_a_draining_server_names_the_window(client: Sdk) -> None:
    """窗口里随机选一刻：退避再长也照它。"""

    async def draining(peer: Peer) -> None:
        await peer.welcome()
        await peer.send({"type": "notice", "code": "draining", "reconnect_after_ms": 200})
        await peer.close(4000, "server_draining")

    endless = {"backoff_base_ms": FOREVER, "backoff_cap_ms": FOREVER}
    async with playing(draining, stay) as server:
        client.start(server.url, tuning=endless)
        lost = await client.until("state", name="disconnected")
        assert lost["retry_at"] <= time.time() * 1000 + 1_000
        await client.until("state", name="connected")
        await client.stop()


async def test_lesson_1_the_first_retry_is_jittered(client: Sdk) -> None:
    """全抖动：同一个底数，十次的第一次等待不会都一样长。"""
    delays = set()
    base = {"backoff_base_ms": FOREVER, "backoff_cap_ms": FOREVER}
    async with playing(closing(4007)) as server:
        for _ in range(4):
            client.start(server.url, tuning=base)
            lost = await client.until("state", name="disconnected", final=False)
            ahead = lost["retry_at"] - time.time() * 1000
            assert ahead <= FOREVER
            delays.add(round(ahead / 1_000))
            await client.stop()
    assert len(delays) > 1


@pytest.mark.parametrize("status", [403, 404, 426, 502])
async def test_two_websockets_refused_and_it_goes_on_by_sse(auto_client: Sdk, status: int) -> None:
    done = Signal()
    async with playing(
        telling(new_message(1), acks=(1,), done=done), statuses=(status, status)
    ) as server:
        auto_client.start(server.url)
        await auto_client.until("state", name="connected", transport="sse")
        await done.wait()
        await auto_client.stop()
        [peer] = server.peers
        assert (peer.kind, peer.token) == ("sse", "opaque")
        assert peer.path.path == "/sse/user/1/messages"


@pytest.mark.parametrize("how", ["refused", "away"])
async def test_a_server_that_restarts_is_no_reason_to_leave_websocket(
    auto_client: Sdk, how: str
) -> None:
    """反向代理说 502，或端口没有人听：SSE 也不通，就不是路的事；服务器一回来照样走 WebSocket。"""
    refuse = {"websocket": [Refusal(502)] * 2, "sse": [Refusal(502)]} if how == "refused" else {}
    if how == "refused":
        async with playing(refuse=refuse) as server:
            auto_client.start(server.url)
            await auto_client.until("state", name="connected", transport="websocket")
            await auto_client.stop()
            assert (refuse["websocket"], refuse["sse"]) == ([], [])
        return
    async with playing() as server:
        address = server.url
    auto_client.start(address, tuning={"backoff_base_ms": 2_000, "backoff_cap_ms": 2_000})
    for _ in range(3):  # 两次 WebSocket，一次 SSE（或三次 WebSocket：看得出没有人听的）
        await auto_client.until("state", name="disconnected")
    async with playing(port=int(address.rpartition(":")[2])) as server:
        await auto_client.until("state", name="connected")
        await auto_client.stop()
        ways = [peer.kind for peer in server.peers]
    assert ways == ["websocket"]


async def test_the_way_changes_back_from_the_same_position(auto_client: Sdk) -> None:
    """SSE → WebSocket（一次不成，回来）→ WebSocket：不丢不重。"""

    async def next_one(peer: Peer) -> None:
        at = int(peer.query.get("last_seq", "0"))
        await peer.welcome(seq=at)
        await peer.send(new_message(at + 1))
        with contextlib.suppress(AssertionError):  # 机器慢：还没确认就又换路了
            await peer.receive_acks(at + 1)
        if peer.kind == "websocket":
            done.set(at + 1)
        await peer.stay()

    done = Signal()
    async with playing(next_one, statuses=(404, 404, 404)) as server:
        auto_client.start(server.url, tuning={"websocket_retry_ms": 1_000})
        newest = await done.wait()
        await auto_client.until("state", name="connected", transport="websocket")
        await auto_client.stop()
        kinds = [peer.kind for peer in server.peers]
    assert (kinds[0], kinds[-1], "websocket" in kinds[:-1]) == ("sse", "websocket", False)
    assert len(kinds) >= 3
    assert auto_client.messages() == ids(*range(1, newest + 1))


@pytest.mark.parametrize(
    ("refusal", "code"),
    [
        (Refusal(401, "invalid_token"), 4500),
        (Refusal(401, "revoked"), 4502),
        (Refusal(403, "forbidden"), 4501),
        (Refusal(403, "kicked"), 4503),
        (Refusal(403, "replaced"), 4505),
    ],
)
async def test_a_stream_refused_means_what_the_close_code_means(
    auto_client: Sdk, refusal: Refusal, code: int
) -> None:
    async with playing(refuse={"sse": [refusal]}) as server:
        auto_client.start(server.url, transport="sse")
        end = await auto_client.until("state", final=True)
        assert (end["code"], end["reason"]) == (code, refusal.code)
        await auto_client.stop()
        assert server.peers == []


async def test_retry_after_is_obeyed(auto_client: Sdk) -> None:
    busy = Refusal(429, "rate_limited", retry_after_s=1_000)
    async with playing(refuse={"sse": [busy]}) as server:
        auto_client.start(server.url, transport="sse")
        lost = await auto_client.until("state", name="disconnected")
        assert lost["retry_at"] - time.time() * 1000 > 900_000
        await auto_client.stop()


async def test_a_stream_with_comments_lives(auto_client: Sdk) -> None:
    """只有注释，活过了几个“没有声息”；机器停顿断了一条，下一条从头再演。"""
    silent_s = 0.5

    async def scene(peer: Peer) -> None:
        assert isinstance(peer, StreamPeer)
        await peer.welcome()
        until = time.monotonic() + 3 * silent_s
        while time.monotonic() < until:
            await peer.comment()
            await asyncio.sleep(silent_s / 10)
        await peer.send(new_message(1))
        await peer.receive_acks(1)
        done.set()
        await peer.stay()

    done = Signal()
    async with playing(scene) as server:
        tuning = {"silent_after_ms": silent_s * 1_000}
        auto_client.start(server.url, transport="sse", tuning=tuning)
        await done.wait()
        await auto_client.stop()
    assert auto_client.messages() == ids(1)


async def test_an_ack_by_rest_refused_for_now_is_sent_again(auto_client: Sdk) -> None:
    done = Signal()
    busy = [Refusal(503, "unavailable")]
    async with playing(
        telling(new_message(1), acks=(1,), done=done), refuse={"acks": busy}
    ) as server:
        auto_client.start(server.url, transport="sse")
        await done.wait()
        await eventually(lambda: not busy)
        await auto_client.stop()
