"""状态、事件与钩子：与 JavaScript 的客户端同名，同义。"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from meeting_push.client import (
    ClientOptions,
    ConnectionState,
    DeviceState,
    MemoryStore,
    PushClient,
    RestClient,
    TokenKeeper,
)
from meeting_push.client.rest_call import Tokens
from tests.support.scripted_server import (
    Frame,
    Peer,
    Signal,
    message_id,
    new_message,
    next_of,
    playing,
    sending,
    stay,
)


async def test_every_change_of_state_is_told_in_order(token: str, options: ClientOptions) -> None:
    async def first(peer: Peer) -> None:
        await peer.welcome()
        await peer.close(4001, "slow_consumer")

    async def second(peer: Peer) -> None:
        await peer.welcome()
        await peer.close(4503, "kicked")

    states: list[ConnectionState] = []
    named: list[str] = []

    async def connected(state: ConnectionState) -> None:
        named.append(state.name)

    async with playing(first, second) as server:
        client = PushClient(server.url, token, options=options)
        client.on("state", states.append)
        client.on("connected", connected)
        client.on("disconnected", lambda state: named.append(f"{state.name} {state.code}"))
        off = client.on("connecting", lambda state: named.append("never"))
        off()
        client.on_message(print)
        with pytest.raises(Exception, match="4503"):
            await client.run()
    assert [(state.name, state.reason, state.final) for state in states] == [
        ("connecting", "", False),
        ("connected", "", False),
        ("disconnected", "slow_consumer", False),
        ("connecting", "", False),
        ("connected", "", False),
        ("disconnected", "kicked", True),
    ]
    assert states[2].retry_at is not None
    assert sorted(named) == ["connected", "connected", "disconnected 4001", "disconnected 4503"]


async def test_every_frame_that_is_no_message_is_an_event(
    token: str, options: ClientOptions
) -> None:
    seen: list[str] = []
    done = Signal()

    def frame(frame: object) -> None:
        seen.append(type(frame).__name__)
        if len(seen) == 2:
            done.set()

    sync = {"type": "read_sync", "message_ids": [], "unread_count": 0}
    gap = {"type": "gap", "from_seq": 1, "to_seq": 1, "count": 1, "reason": "expired"}
    async with playing(sending(sync, gap)) as server:
        client = PushClient(server.url, token, options=options)
        client.on("frame", frame)
        async with client:
            await done.wait()
    assert seen == ["ReadSync", "Gap"]


async def test_by_hand_nothing_is_acked_before_ack(token: str, options: ClientOptions) -> None:
    async def scene(peer: Peer) -> None:
        await peer.welcome()
        await peer.send(new_message(1), new_message(2))
        await peer.receive_acks(2)
        assert peer.acked == [message_id(2)]
        done.set()
        await peer.stay()

    done = Signal()
    manual = replace(options, ack="manual")
    async with playing(scene) as server:
        client = PushClient(server.url, token, options=manual)

        @client.on_message
        def handle(message: object) -> None:
            got.append(message)
            if len(got) == 2:
                got[1].ack()

        got: list = []  # type: ignore[type-arg]
        running = asyncio.create_task(client.run())
        await done.wait()
        await client.close()
        await running


async def test_dlv_5_what_the_heartbeat_says_and_nobody_pushed_is_fetched_by_reconnecting(
    token: str, options: ClientOptions
) -> None:
    """上一次心跳时就有的，这一次还没到手：漏了，带着位置再连。"""

    async def losing(peer: Peer) -> None:
        await peer.welcome(heartbeat_interval_s=0.01)
        await peer.send(new_message(1))
        await peer.receive_acks(1)
        while await peer.next_frame() is not None:
            await peer.send(beat(3))

    async def second(peer: Peer) -> None:
        assert peer.query["last_seq"] == "1"
        await peer.welcome(seq=3)
        await peer.send(new_message(2), new_message(3))
        await peer.stay()

    async with (
        playing(losing, second) as server,
        PushClient(server.url, token, options=options) as client,
    ):
        for seq in (1, 2, 3):
            message = await next_of(client)
            assert message.seq == seq
            message.ack()


def beat(seq: int) -> Frame:
    return {"type": "heartbeat_ack", "timestamp": 1, "server_time": 1, "seq": seq}


async def test_a_message_withdrawn_while_it_waits_is_not_handed_over(
    token: str, options: ClientOptions
) -> None:
    withdrawn = new_message(3, number=2, type="withdrawn", withdrawn_at=2)
    frames = [new_message(1), new_message(2), withdrawn, new_message(4)]
    async with (
        playing(sending(*frames)) as server,
        PushClient(server.url, token, options=options) as client,
    ):
        gone = Signal()
        client.on("withdrawn", gone.set)
        assert (await next_of(client)).seq == 1
        await gone.wait()
        assert (await next_of(client)).seq == 4


async def test_the_position_outlives_the_client_in_a_store_of_ones_own(
    token: str, options: ClientOptions
) -> None:
    class Shelf(MemoryStore):
        saved = 0

        def save(self, state: DeviceState) -> None:
            super().save(state)
            self.saved += 1

    async def second(peer: Peer) -> None:
        assert peer.query["last_seq"] == "1"
        assert peer.query["device_id"] == server.peers[0].query["device_id"]
        await stay(peer)

    shelf = Shelf()
    async with playing(sending(new_message(1)), second) as server:
        async with PushClient(server.url, token, store=shelf, options=options) as client:
            (await next_of(client)).ack()
        assert shelf.saved
        async with PushClient(server.url, token, store=shelf, options=options) as client:
            await client.wait_connected()


async def test_the_token_is_renewed_before_it_ends_by_the_servers_clock(
    options: ClientOptions,
) -> None:
    """没有提醒也换；我们的钟差一天也换得准。"""

    async def scene(peer: Peer) -> None:
        theirs = int(time.time() * 1000) + 86_400_000
        await peer.welcome(server_time=theirs, token_expires_at=theirs + 30_100)
        frame = await peer.receive("refresh_token")
        renewed.set(frame["token"])
        await peer.send({"type": "token_refreshed", "token_expires_at": theirs + 3_600_000})
        await peer.stay()

    renewed = Signal()
    asked: list[bool] = []

    async def token(fresh: bool = False) -> str:
        asked.append(fresh)
        return f"token-{len(asked)}"

    async with (
        playing(scene) as server,
        PushClient(server.url, token, user_id=1, options=options) as client,
    ):
        assert await renewed.wait() == "token-2"
        assert client.state.name == "connected"
    assert asked == [False, True]


async def test_a_keeper_whose_clock_is_slow_renews_when_the_server_says_expired() -> None:
    class Rest(RestClient):
        async def login(self, username: str, password: str) -> Tokens:
            return Tokens("first", "r", 3_600, 1)

        async def refresh(self, refresh_token: str) -> Tokens:
            return Tokens("second", "r", 3_600, 1)

    keeper = TokenKeeper(Rest("http://127.0.0.1:9"), "alice", "password")
    assert [await keeper(), await keeper(), await keeper(fresh=True)] == [
        "first",
        "first",
        "second",
    ]
