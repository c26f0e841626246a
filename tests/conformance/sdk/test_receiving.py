"""收、确认、断了接着：照剧本演的服务器 × 每一个 SDK × WebSocket 与 SSE，同样的断言。"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.scripted_server import (
    Peer,
    Signal,
    message_id,
    new_message,
    playing,
)

from .adapter import Sdk
from .scenes import ids, telling

pytestmark = pytest.mark.timeout(180)

# ── 收与确认 ────────────────────────────────────────────────────────────────


async def test_what_is_pushed_is_handed_over_in_order_and_acked_once(client: Sdk) -> None:
    done = Signal()
    batch = {"type": "batch", "messages": [new_message(2), new_message(3)]}
    async with playing(telling(new_message(1), batch, acks=(1, 2, 3), done=done)) as server:
        client.start(server.url)
        assert sorted(await done.wait()) == ids(1, 2, 3)
        await client.stop()
    assert client.messages() == ids(1, 2, 3)
    assert server.peers[0].kind == client.way


async def test_dlv_2_duplicates_are_acked_again_not_handed_over_again(client: Sdk) -> None:
    done = Signal()
    frames = [new_message(1), new_message(1), new_message(2), new_message(1, attempt=1)]
    async with playing(telling(*frames, new_message(3), acks=(1, 2, 3), done=done)) as server:
        client.start(server.url)
        await done.wait()
        await client.stop()
        acked = server.peers[0].acked
    assert client.messages() == ids(1, 2, 3)
    assert acked.count(message_id(1)) >= 1


async def test_who_fails_to_handle_it_does_not_ack_it_and_gets_it_again(client: Sdk) -> None:
    async def first(peer: Peer) -> None:
        await peer.welcome()
        await peer.send(new_message(1), new_message(2))
        await peer.receive_acks(2)
        assert peer.acked == ids(2)
        await peer.drop()

    done = Signal()
    again = telling(new_message(1, attempt=1), acks=(1,), done=done, seq=2)
    async with playing(first, again) as server:
        client.start(server.url, fail_once=ids(1))
        await done.wait()
        assert server.peers[1].query.get("last_seq", "0") == "0"
        await client.stop()
    assert client.messages() == ids(1, 2, 1)


async def test_by_hand_nothing_is_acked_before_it_is_said(client: Sdk) -> None:
    done = Signal()
    async with playing(telling(new_message(1), new_message(2), acks=(2,), done=done)) as server:
        client.start(server.url, ack="manual")
        await client.until("message", message_id=message_id(2))
        client.ack(message_id(2))
        client.ack(message_id(2))
        assert await done.wait() == ids(2)
        await client.stop()
        assert server.peers[0].acked == ids(2)


async def test_a_broadcast_is_acked_a_transient_message_is_not(client: Sdk) -> None:
    done = Signal()
    transient = new_message(None, number=7)
    broadcast = new_message(None, number=8, broadcast_id=3)
    for frame in (transient, broadcast):
        del frame["seq"]
    async with playing(telling(transient, broadcast, acks=(8,), done=done)) as server:
        client.start(server.url)
        assert await done.wait() == ids(8)
        await client.stop()
    assert client.messages() == ids(7, 8)


async def test_a_withdrawn_message_is_told_acked_and_not_handed_over(client: Sdk) -> None:
    done = Signal()
    withdrawn = new_message(2, number=1, type="withdrawn", withdrawn_at=5)
    frames = [withdrawn, new_message(1), new_message(3)]
    async with playing(telling(*frames, acks=(1, 3), done=done)) as server:
        client.start(server.url)
        await client.until("withdrawn", message_id=message_id(1))
        await done.wait()
        await client.stop()
    assert client.messages() == ids(3)


async def test_a_withdrawal_is_one_of_the_pending(client: Sdk) -> None:
    """``pending`` 连它也数：它到了，积压就推完了，其下没有来的不会再来。"""

    async def first(peer: Peer) -> None:
        await peer.welcome(seq=4, pending=2)
        await peer.send(new_message(2), new_message(3, number=1, type="withdrawn", withdrawn_at=5))
        await peer.receive_acks(1, 2)
        await peer.drop()

    done = Signal()
    async with playing(first, telling(new_message(5), acks=(5,), done=done, seq=5)) as server:
        client.start(server.url)
        await done.wait()
        await client.stop()
        assert server.peers[1].query["last_seq"] == "4"
    assert client.messages() == ids(2, 5)


async def test_an_ack_nobody_answered_is_sent_again_on_the_next_connection(
    socket_client: Sdk,
) -> None:
    async def deaf(peer: Peer) -> None:
        await peer.welcome()
        await peer.send(new_message(1))
        frame = await peer.next_frame()
        assert frame is not None
        assert frame["message_ids"] == ids(1)
        await peer.drop()

    done = Signal()
    async with playing(deaf, telling(acks=(1,), done=done, seq=1)) as server:
        socket_client.start(server.url)
        await done.wait()
        await socket_client.stop()
    assert socket_client.messages() == ids(1)


# ── 断了，接着 ──────────────────────────────────────────────────────────────


async def test_dlv_5_a_cut_loses_and_repeats_nothing(client: Sdk) -> None:
    async def first(peer: Peer) -> None:
        await peer.welcome()
        await peer.send(new_message(1), new_message(2))
        await peer.receive_acks(1, 2)
        await peer.drop()

    done = Signal()
    second = telling(new_message(2), new_message(3), acks=(3,), done=done, seq=3)
    async with playing(first, second) as server:
        client.start(server.url)
        await done.wait()
        await client.stop()
        assert server.peers[0].query.get("last_seq") is None
        assert server.peers[1].query["last_seq"] == "2"
        assert server.peers[1].query["epoch"] == "epoch-1"
    assert client.messages() == ids(1, 2, 3)


async def test_the_position_is_what_was_applied_not_the_highest_that_was_seen(
    client: Sdk,
) -> None:
    """紧急的先到：3 应用了，1、2 没有。"""

    async def first(peer: Peer) -> None:
        await peer.welcome(seq=0)
        await peer.send(new_message(3, priority=9))
        await peer.receive_acks(3)
        await peer.drop()

    done = Signal()
    second = telling(*map(new_message, (1, 2, 3)), acks=(1, 2), done=done, seq=3)
    async with playing(first, second) as server:
        client.start(server.url)
        await done.wait()
        await client.stop()
        assert server.peers[1].query["last_seq"] == "0"
    assert client.messages() == ids(3, 1, 2)


async def test_a_gap_is_told_and_is_behind_us(client: Sdk) -> None:
    async def first(peer: Peer) -> None:
        await peer.welcome()
        await peer.send(
            new_message(1),
            {"type": "gap", "from_seq": 2, "to_seq": 4, "count": 3, "reason": "evicted"},
            new_message(5),
        )
        await peer.receive_acks(1, 5)
        await peer.drop()

    done = Signal()
    async with playing(first, telling(new_message(6), acks=(6,), done=done, seq=6)) as server:
        client.start(server.url)
        gap = await client.until("gap")
        assert (gap["from_seq"], gap["to_seq"]) == (2, 4)
        await done.wait()
        await client.stop()
        assert server.peers[1].query["last_seq"] == "5"


async def test_a_resync_is_told_and_moves_the_position(client: Sdk) -> None:
    async def first(peer: Peer) -> None:
        await peer.welcome()
        await peer.send(
            {"type": "resync", "reason": "epoch_changed", "epoch": "epoch-2", "seq": 40},
            new_message(41),
        )
        await peer.receive_acks(41)
        await peer.drop()

    done = Signal()
    later = telling(new_message(42), acks=(42,), done=done, seq=42, epoch="epoch-2")
    async with playing(first, later) as server:
        client.start(server.url)
        assert (await client.until("resync"))["reason"] == "epoch_changed"
        await done.wait()
        await client.stop()
        query = server.peers[1].query
        assert (query["epoch"], query["last_seq"]) == ("epoch-2", "41")


async def test_a_new_epoch_ends_the_old_position(client: Sdk) -> None:
    async def first(peer: Peer) -> None:
        await peer.welcome()
        await peer.send(new_message(1), new_message(2))
        await peer.receive_acks(1, 2)
        await peer.drop()

    async def second(peer: Peer) -> None:
        await peer.welcome(epoch="epoch-2", seq=1, pending=1, resumed=False)
        await peer.send(new_message(1, number=11))
        await peer.receive_acks(11)
        await peer.drop()

    done = Signal()
    third = telling(new_message(2, number=12), acks=(12,), done=done, epoch="epoch-2", seq=2)
    async with playing(first, second, third) as server:
        client.start(server.url)
        await done.wait()
        await client.stop()
        query = server.peers[2].query
        assert (query["epoch"], query["last_seq"]) == ("epoch-2", "1")
    assert client.messages() == ids(1, 2, 11, 12)


async def test_what_a_heartbeat_tells_and_nobody_pushed_is_fetched(socket_client: Sdk) -> None:
    async def losing(peer: Peer) -> None:
        await peer.welcome(heartbeat_interval_s=0.02)
        await peer.send(new_message(1))
        await peer.receive_acks(1)
        beat = {"type": "heartbeat_ack", "timestamp": 1, "server_time": 1, "seq": 2}
        while await peer.next_frame() is not None:
            await peer.send(beat)

    done = Signal()
    async with playing(losing, telling(new_message(2), acks=(2,), done=done, seq=2)) as server:
        socket_client.start(server.url)
        await done.wait()
        await socket_client.stop()
        assert server.peers[1].query["last_seq"] == "1"


async def test_the_position_and_the_device_outlive_the_client(client: Sdk, tmp_path: Path) -> None:
    done, later = Signal(), Signal()
    first = telling(new_message(1), acks=(1,), done=done)
    second = telling(new_message(1), new_message(2), acks=(2,), done=later, seq=2)
    store = str(tmp_path / "device.json")
    async with playing(first, second) as server:
        client.start(server.url, store=store)
        await done.wait()
        await client.stop()
        client.start(server.url, store=store)
        await later.wait()
        await client.stop()
        before, after = server.peers
        assert after.query["last_seq"] == "1"
        assert after.query["device_id"] == before.query["device_id"]
    assert client.messages() == ids(1, 2)
