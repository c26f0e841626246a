"""关闭码，服务器的怪样子：照剧本演的服务器 × 每一个 SDK × WebSocket 与 SSE，同样的断言。"""

from __future__ import annotations

import time

import pytest

from meeting_push.protocol.codes import CloseCode
from tests.support.scripted_server import Peer, Signal, new_message, stay

from .adapter import Sdk
from .scenes import FOREVER, against, closing, ids, telling

pytestmark = pytest.mark.timeout(180)

# ── 关闭码 ──────────────────────────────────────────────────────────────────


#: 服务器会用的每一个（4004 另有一条），与网络、代理、明天的几个。
RETRIED = sorted(
    {int(code) for code in CloseCode if code < 4500} - {4004} | {1011, 1012, 4042, 4499}
)


@pytest.mark.parametrize("code", RETRIED)
async def test_below_4500_it_comes_back(client: Sdk, code: int) -> None:
    async with against(client, closing(code, "because"), stay, peers=2):
        lost = await client.until("state", name="disconnected")
        assert (lost["code"], lost["final"]) == (code, False)
        assert lost["retry_at"] is not None
        await client.until("state", name="connected")


FINAL = {int(code): code.reason for code in CloseCode if code >= 4500} | {4999: "unheard_of"}


@pytest.mark.parametrize(("code", "reason"), FINAL.items())
async def test_from_4500_on_it_stays_away(client: Sdk, code: int, reason: str) -> None:
    async with against(client, closing(code, reason), peers=1):
        end = await client.until("state", final=True)
        assert (end["name"], end["code"], end["reason"]) == ("disconnected", code, reason)


async def test_4004_asks_for_a_fresh_token_and_comes_back(client: Sdk) -> None:
    expired = closing(4004, "token_expired")
    async with against(client, expired, stay, peers=2, token=None) as server:
        assert (await client.until("token"))["fresh"] is False
        client.give("old")
        assert (await client.until("token"))["fresh"] is True
        client.give("new")
        await client.until("state", name="connected")
    assert [peer.token for peer in server.peers] == ["old", "new"]


# ── 服务器的怪样子 ──────────────────────────────────────────────────────────


async def test_garbage_is_stepped_over(client: Sdk) -> None:
    async def scene(peer: Peer) -> None:
        await peer.welcome()
        for rubbish in ("{", "null", "[]", '"text"', '{"type":7}', '{"no":"type"}', "\x00"):
            await peer.send_raw(rubbish)
        await peer.send({"type": "of_tomorrow", "x": 1}, new_message(1))
        await peer.receive_acks(1)
        done.set()
        await peer.stay()

    done = Signal()
    async with against(client, scene, peers=1):
        await done.wait()
    assert client.messages() == ids(1)


async def test_a_field_of_tomorrow_is_no_reason_to_lose_a_message(client: Sdk) -> None:
    done = Signal()
    frames = [new_message(1, of_tomorrow={"x": [1]}), new_message(2)]
    scene = telling(*frames, acks=(1, 2), done=done, of_tomorrow=1)
    async with against(client, scene, peers=1):
        await done.wait()
    assert client.messages() == ids(1, 2)


async def test_a_first_frame_that_is_no_welcome_is_no_connection(client: Sdk) -> None:
    async def rude(peer: Peer) -> None:
        await peer.send({"type": "notice", "code": "hello", "reconnect_after_ms": 0})
        await peer.stay()

    async with against(client, rude, stay, peers=2, tuning={"open_timeout_ms": 300}):
        await client.until("state", name="connected")
    assert [one for one in client.events if one["event"] == "notice"] == []


async def test_a_server_that_never_says_welcome_is_left(client: Sdk) -> None:
    async def mute(peer: Peer) -> None:
        await peer.stay()

    async with against(client, mute, stay, peers=2, tuning={"open_timeout_ms": 300}):
        await client.until("state", name="connected")


async def test_half_open_is_noticed(client: Sdk) -> None:
    """套接字开着，再也没有一个字节。"""

    async def dead(peer: Peer) -> None:
        await peer.welcome(heartbeat_interval_s=0.05)
        await gone.wait()

    gone = Signal()
    quick = {"dead_after_ms": 100, "silent_after_ms": 300}
    async with against(client, dead, stay, peers=2, tuning=quick):
        lost = await client.until("state", name="disconnected")
        assert lost["reason"] == "server_silent"
        await client.until("state", name="connected")
        gone.set()


async def test_a_slow_server_is_waited_for(client: Sdk) -> None:
    """一帧分成许多小段慢慢到。"""

    async def slow(peer: Peer) -> None:
        await peer.welcome()
        await peer.trickle({"type": "batch", "messages": [new_message(1), new_message(2)]})
        await peer.receive_acks(1, 2)
        done.set()
        await peer.stay()

    done = Signal()
    async with against(client, slow, peers=1):
        await done.wait()
    assert client.messages() == ids(1, 2)


@pytest.mark.parametrize("hours", [-24, 24])
async def test_a_skewed_clock_renews_the_token_in_time(socket_client: Sdk, hours: int) -> None:
    """服务器的钟差一天：到期按它的钟算，不断线就换。"""

    async def scene(peer: Peer) -> None:
        theirs = int(time.time() * 1000) + hours * 3_600_000
        await peer.welcome(server_time=theirs, token_expires_at=theirs + 30_200)
        frame = await peer.receive("refresh_token")
        renewed.set(frame["token"])
        await peer.send({"type": "token_refreshed", "token_expires_at": theirs + FOREVER})
        await peer.stay()

    renewed = Signal()
    async with against(socket_client, scene, peers=1, token=None):
        await socket_client.until("token", fresh=False)
        socket_client.give("first")
        await socket_client.until("token", fresh=True)
        socket_client.give("second")
        assert await renewed.wait() == "second"


async def test_a_server_that_warns_gets_a_fresh_token_in_band(socket_client: Sdk) -> None:
    async def scene(peer: Peer) -> None:
        await peer.welcome()
        await peer.send({"type": "token_expiring", "token_expires_at": 1})
        renewed.set((await peer.receive("refresh_token"))["token"])
        await peer.stay()

    renewed = Signal()
    async with against(socket_client, scene, peers=1, token=None):
        for _ in range(2):
            await socket_client.until("token")
            socket_client.give("t")
        await renewed.wait()
