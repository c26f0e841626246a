"""DLV-2：至少一次变成对应用的恰好一次；位置、确认、去重。"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from meeting_push.client import ClientOptions, PushClient, ReceivedMessage
from meeting_push.client.state_file import DeviceState, StateFile
from meeting_push.protocol import frames

from .conftest import unsigned_jwt
from .scripted_server import EPOCH, Peer, Signal, message_id, new_message, playing, stay


async def next_of(client: PushClient) -> ReceivedMessage:
    return await asyncio.wait_for(anext(client), 5)


async def test_the_message_has_every_field_of_the_contract(
    token: str, options: ClientOptions
) -> None:
    sent = new_message(1, priority=7, data={"room": 5}, attempt=2, message_type="system")

    async def scene(peer: Peer) -> None:
        await peer.welcome()
        await peer.send(sent)
        await peer.stay()

    async with playing(scene) as server, PushClient(server.url, token, options=options) as client:
        message = await next_of(client)
        assert json.loads(message.to_json()) == {k: v for k, v in sent.items() if k != "type"}
        assert message.sender.name == "bob"
        assert "content" not in repr(message)


async def test_a_message_is_acked_when_the_next_one_is_asked_for(
    token: str, options: ClientOptions
) -> None:
    async def scene(peer: Peer) -> None:
        await peer.welcome()
        await peer.send({"type": "batch", "messages": [new_message(1), new_message(2)]})
        await peer.receive_acks(1)
        acked.set(list(peer.acked))
        await peer.stay()

    acked = Signal()
    async with playing(scene) as server, PushClient(server.url, token, options=options) as client:
        assert (await next_of(client)).seq == 1
        assert (await next_of(client)).seq == 2
        assert await acked.wait() == [message_id(1)]


async def test_breaking_out_leaves_the_last_message_unacked(
    token: str, options: ClientOptions
) -> None:
    async def scene(peer: Peer) -> None:
        await peer.welcome()
        await peer.send(new_message(1), new_message(2))
        await peer.stay()
        left.set(peer.acked)

    left = Signal()
    async with playing(scene) as server:
        async with PushClient(server.url, token, options=options) as client:
            async for message in client:
                if message.seq == 2:
                    break
        assert await left.wait() == [message_id(1)]


async def test_close_sends_the_acks_it_still_has(token: str, options: ClientOptions) -> None:
    async def scene(peer: Peer) -> None:
        await peer.welcome()
        await peer.send(new_message(1))
        await peer.stay()
        left.set(peer.acked)

    left = Signal()
    slow = replace(options, ack_delay_s=60)
    async with playing(scene) as server:
        async with PushClient(server.url, token, options=slow) as client:
            (await next_of(client)).ack()
        assert await left.wait() == [message_id(1)]


async def test_acks_are_batched(token: str, options: ClientOptions) -> None:
    async def scene(peer: Peer) -> None:
        await peer.welcome()
        await peer.send(*(new_message(seq) for seq in range(1, 6)))
        batch.set((await peer.receive("ack"))["message_ids"])
        await peer.stay()

    batch = Signal()
    slow = replace(options, ack_delay_s=0.05)
    async with playing(scene) as server, PushClient(server.url, token, options=slow) as client:
        for _ in range(5):
            await client.ack(await next_of(client))
        assert await batch.wait() == [message_id(n) for n in range(1, 6)]


async def test_an_ack_frame_fits_the_limit_of_the_server(
    token: str, options: ClientOptions
) -> None:
    async def scene(peer: Peer) -> None:
        await peer.welcome(max_frame_bytes=1024)
        await peer.send(*(new_message(seq) for seq in range(1, 101)))
        sizes = [len(json.dumps(await peer.receive("ack"))) for _ in range(4)]
        largest.set(max(sizes))
        await peer.stay()

    largest = Signal()
    slow = replace(options, ack_delay_s=0.05)
    async with playing(scene) as server, PushClient(server.url, token, options=slow) as client:
        for _ in range(100):
            await client.ack(await next_of(client))
        assert 900 < await largest.wait() <= 1024


async def test_ack_by_id_alone(token: str, options: ClientOptions) -> None:
    async def scene(peer: Peer) -> None:
        await peer.welcome()
        await peer.receive_acks(9)
        acked.set()
        await peer.stay()

    acked = Signal()
    async with playing(scene) as server, PushClient(server.url, token, options=options) as client:
        await client.ack(message_id(9))
        await acked.wait()


async def test_dlv_2_a_duplicate_is_acked_again_but_not_handed_over(
    token: str, options: ClientOptions
) -> None:
    async def scene(peer: Peer) -> None:
        await peer.welcome()
        await peer.send(new_message(1))
        await peer.receive_acks(1)
        peer.acked.clear()
        await peer.send(new_message(1, attempt=1))
        await peer.receive_acks(1)
        await peer.send(new_message(2))
        await peer.stay()

    async with playing(scene) as server, PushClient(server.url, token, options=options) as client:
        await client.ack(await next_of(client))
        assert (await next_of(client)).seq == 2


async def test_dlv_2_a_message_in_hand_is_not_queued_again(
    token: str, options: ClientOptions
) -> None:
    async def scene(peer: Peer) -> None:
        await peer.welcome()
        await peer.send(new_message(1), new_message(1, attempt=1), new_message(2))
        await peer.stay()

    async with playing(scene) as server, PushClient(server.url, token, options=options) as client:
        assert [(await next_of(client)).seq for _ in range(2)] == [1, 2]


@pytest.mark.parametrize("inbox_limit", [1, 10])
async def test_what_was_still_queued_when_the_connection_broke_comes_again(
    token: str, options: ClientOptions, inbox_limit: int
) -> None:
    async def first(peer: Peer) -> None:
        await peer.welcome(heartbeat_interval_s=0.01)
        await peer.send(new_message(1), new_message(2), new_message(3))
        await taken.wait()
        await peer.receive("heartbeat")
        await peer.drop()

    async def second(peer: Peer) -> None:
        await peer.welcome(seq=3)
        await peer.send(new_message(2), new_message(3))
        back.set()
        await peer.stay()

    taken, back = Signal(), Signal()
    async with (
        playing(first, second) as server,
        PushClient(server.url, token, options=replace(options, inbox_limit=inbox_limit)) as client,
    ):
        (await next_of(client)).ack()
        taken.set()
        await back.wait()
        assert [(await next_of(client)).seq for _ in range(2)] == [2, 3]


async def test_reconnecting_presents_the_position(token: str, options: ClientOptions) -> None:
    async def first(peer: Peer) -> None:
        await peer.welcome(seq=5)
        await peer.send(new_message(6), new_message(7))
        await peer.receive_acks(6, 7)
        await peer.drop()

    async def second(peer: Peer) -> None:
        query.set(peer.query)
        await stay(peer)

    query = Signal()
    async with (
        playing(first, second) as server,
        PushClient(server.url, token, options=options) as client,
    ):
        for _ in range(2):
            await client.ack(await next_of(client))
        presented = await query.wait()
        assert (presented["epoch"], presented["last_seq"]) == (EPOCH, "7")


async def test_the_position_stays_below_what_was_overtaken(
    token: str, options: ClientOptions
) -> None:
    """紧急的 7 超了 6：6 没到之前，只能声称 5。"""

    async def first(peer: Peer) -> None:
        await peer.welcome(seq=5)
        await peer.send(new_message(7, priority=9))
        await peer.receive_acks(7)
        await peer.drop()

    async def second(peer: Peer) -> None:
        query.set(peer.query)
        await peer.welcome(seq=7)
        await peer.send(new_message(6), new_message(7))
        await peer.stay()

    query = Signal()
    async with (
        playing(first, second) as server,
        PushClient(server.url, token, options=options) as client,
    ):
        await client.ack(await next_of(client))
        assert (await query.wait())["last_seq"] == "5"
        assert (await next_of(client)).seq == 6


async def test_a_gap_is_told_and_moves_the_position(token: str, options: ClientOptions) -> None:
    gap = {"type": "gap", "from_seq": 6, "to_seq": 8, "count": 3, "reason": "evicted"}

    async def first(peer: Peer) -> None:
        await peer.welcome(seq=5)
        await peer.send(gap)
        await told.wait()
        await peer.drop()

    async def second(peer: Peer) -> None:
        query.set(peer.query)
        await stay(peer)

    told, query = Signal(), Signal()
    async with playing(first, second) as server:
        client = PushClient(server.url, token, options=options)
        client.on("gap", told.set)
        async with client:
            frame = await told.wait()
            assert isinstance(frame, frames.Gap)
            assert (frame.from_seq, frame.to_seq, frame.reason) == (6, 8, "evicted")
            assert (await query.wait())["last_seq"] == "8"


async def test_a_resync_is_told_and_starts_the_new_epoch(
    token: str, options: ClientOptions
) -> None:
    async def first(peer: Peer) -> None:
        await peer.welcome(seq=5)
        await peer.drop()

    async def second(peer: Peer) -> None:
        await peer.welcome(epoch="epoch-2", seq=2, resumed=False)
        await peer.send({"type": "resync", "reason": "epoch_changed", "epoch": "epoch-2", "seq": 2})
        await told.wait()
        await peer.drop()

    async def third(peer: Peer) -> None:
        query.set(peer.query)
        await stay(peer)

    told, query = Signal(), Signal()
    async with playing(first, second, third) as server:
        client = PushClient(server.url, token, options=options)

        async def on_resync(frame: frames.Resync) -> None:
            told.set(frame.reason)

        client.on("resync", on_resync)
        async with client:
            assert await told.wait() == "epoch_changed"
            presented = await query.wait()
            assert (presented["epoch"], presented["last_seq"]) == ("epoch-2", "2")


async def test_an_ack_the_server_never_answered_is_sent_again(
    token: str, options: ClientOptions
) -> None:
    async def deaf(peer: Peer) -> None:
        await peer.welcome()
        await peer.send(new_message(1))
        await peer._socket.recv()  # 收到了确认，却没来得及办就断了
        await peer.drop()

    async def second(peer: Peer) -> None:
        await peer.welcome(seq=1)
        await peer.receive_acks(1)
        acked.set()
        await peer.stay()

    acked = Signal()
    async with (
        playing(deaf, second) as server,
        PushClient(server.url, token, options=options) as client,
    ):
        await client.ack(await next_of(client))
        await acked.wait()


async def test_dlv_2_a_handler_that_fails_gets_the_message_again(
    token: str, options: ClientOptions
) -> None:
    async def first(peer: Peer) -> None:
        await peer.welcome(seq=0)
        await peer.send(new_message(1), new_message(2))
        await peer.receive_acks(2)
        await peer.drop()

    async def second(peer: Peer) -> None:
        assert peer.query["last_seq"] == "0"
        await peer.welcome(seq=2)
        await peer.send(new_message(1), new_message(2))
        await peer.receive_acks(1, 2)
        await client.close()
        await peer.stay()

    handled: list[int | None] = []
    async with playing(first, second) as server:
        client = PushClient(server.url, token, options=options)

        @client.on_message
        async def handler(message: ReceivedMessage) -> None:
            handled.append(message.seq)
            if len(handled) == 1:
                raise RuntimeError("not now")

        await asyncio.wait_for(client.run(), 5)
    assert handled == [1, 2, 1]


async def test_handlers_run_one_at_a_time_in_order(token: str, options: ClientOptions) -> None:
    async def scene(peer: Peer) -> None:
        await peer.welcome()
        await peer.send(*(new_message(seq) for seq in range(1, 6)))
        await peer.receive_acks(5)
        await client.close()
        await peer.stay()

    running = most = 0
    handled: list[int | None] = []
    async with playing(scene) as server:
        client = PushClient(server.url, token, options=options)

        @client.on_message
        async def handler(message: ReceivedMessage) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            handled.append(message.seq)
            running -= 1

        await asyncio.wait_for(client.run(), 5)
    assert (most, handled) == (1, [1, 2, 3, 4, 5])


async def test_concurrency_is_an_option(token: str, options: ClientOptions) -> None:
    async def scene(peer: Peer) -> None:
        await peer.welcome()
        await peer.send(new_message(1), new_message(2))
        await peer.stay()

    together = asyncio.Barrier(2)
    async with playing(scene) as server:
        client = PushClient(server.url, token, options=replace(options, concurrency=2))

        @client.on_message
        async def handler(message: ReceivedMessage) -> None:
            await together.wait()
            await client.close()

        await asyncio.wait_for(client.run(), 5)


async def test_closing_in_the_handler_still_acks_its_message(
    token: str, options: ClientOptions
) -> None:
    async def scene(peer: Peer) -> None:
        await peer.welcome()
        await peer.send(new_message(1), new_message(2))
        await peer.stay()
        left.set(peer.acked)

    left = Signal()
    async with playing(scene) as server:
        client = PushClient(server.url, token, options=options)

        @client.on_message
        async def handler(message: ReceivedMessage) -> None:
            await client.close()

        await asyncio.wait_for(client.run(), 5)
        assert await left.wait() == [message_id(1)]


async def test_a_handler_outlives_its_connection(token: str, options: ClientOptions) -> None:
    async def first(peer: Peer) -> None:
        await peer.welcome()
        await peer.send(new_message(1))
        await started.wait()
        await peer.drop()

    async def second(peer: Peer) -> None:
        await peer.welcome(seq=1)
        await peer.send(new_message(1))
        release.set()
        await peer.receive_acks(1)
        await client.close()
        await peer.stay()

    started, release = Signal(), Signal()
    handled: list[int | None] = []
    async with playing(first, second) as server:
        client = PushClient(server.url, token, options=options)

        @client.on_message
        async def handler(message: ReceivedMessage) -> None:
            handled.append(message.seq)
            started.set()
            await release.wait()

        await asyncio.wait_for(client.run(), 5)
    assert handled == [1]


async def test_cancelling_run_closes_without_acking_the_unfinished(
    token: str, options: ClientOptions
) -> None:
    async def scene(peer: Peer) -> None:
        await peer.welcome()
        await peer.send(new_message(1))
        await peer.stay()
        left.set(peer.acked)

    started, left = Signal(), Signal()
    async with playing(scene) as server:
        client = PushClient(server.url, token, options=options)

        @client.on_message
        async def handler(message: ReceivedMessage) -> None:
            started.set()
            await asyncio.Event().wait()

        running = asyncio.create_task(client.run())
        await started.wait()
        running.cancel()
        await asyncio.wait({running})
        assert running.cancelled()
        assert await left.wait() == []


async def test_a_transient_message_is_handed_over_and_not_acked(
    token: str, options: ClientOptions
) -> None:
    async def scene(peer: Peer) -> None:
        await peer.welcome()
        await peer.send(new_message(None, number=5), new_message(1))
        await peer.receive("ack")
        acked.set(peer.acked)
        await peer.stay()

    acked = Signal()
    async with playing(scene) as server, PushClient(server.url, token, options=options) as client:
        for number in (5, 1):
            message = await next_of(client)
            assert message.message_id == message_id(number)
            message.ack()
        assert await acked.wait() == [message_id(1)]


@pytest.mark.parametrize(
    "text", ["{", '{"type":"tomorrow"}', '{"type":"new_message"}', b"\xff\x00"]
)
async def test_a_frame_it_does_not_understand_is_passed_over(
    token: str, options: ClientOptions, text: str | bytes
) -> None:
    async def scene(peer: Peer) -> None:
        await peer.welcome()
        await peer.send_raw(text)
        await peer.send(new_message(1))
        await peer.stay()

    async with playing(scene) as server, PushClient(server.url, token, options=options) as client:
        assert (await next_of(client)).seq == 1
        assert len(server.peers) == 1


async def test_a_failing_event_handler_does_not_stop_the_client(
    token: str, options: ClientOptions
) -> None:
    read_sync = {"type": "read_sync", "message_ids": [message_id(1)], "unread_count": 3}

    async def scene(peer: Peer) -> None:
        await peer.welcome()
        await peer.send(read_sync, read_sync)
        await peer.stay()

    second = Signal()
    calls: list[int] = []

    def handler(frame: frames.ReadSync) -> None:
        calls.append(frame.unread_count)
        if len(calls) == 1:
            raise RuntimeError("broken")
        second.set()

    async with playing(scene) as server:
        client = PushClient(server.url, token, options=options)
        client.on("read_sync", handler)
        async with client:
            await second.wait()
    assert calls == [3, 3]


def test_an_unknown_event_name_is_an_error(token: str) -> None:
    with pytest.raises(ValueError, match="unknown event"):
        PushClient("http://host", token).on("message", print)


async def test_run_without_a_handler_is_an_error(token: str) -> None:
    with pytest.raises(RuntimeError, match="on_message"):
        await PushClient("http://host", token).run()


class TestStateFile:
    """重启：同一份状态文件，另一个 ``PushClient``。"""

    async def test_dlv_2_exactly_once_across_a_restart(
        self, token: str, options: ClientOptions, tmp_path: Path
    ) -> None:
        async def first(peer: Peer) -> None:
            await peer.welcome()
            await peer.send(new_message(1))
            await peer.stay()

        async def second(peer: Peer) -> None:
            assert peer.query["device_id"] == server.peers[0].query["device_id"]
            assert peer.query["last_seq"] == "1"
            await peer.welcome(seq=1)
            await peer.send(new_message(1, attempt=1), new_message(2))
            await peer.receive_acks(1)
            await peer.stay()

        path = tmp_path / "state.json"
        async with playing(first, second) as server:
            async with PushClient(server.url, token, state_path=path, options=options) as before:
                (await next_of(before)).ack()
            async with PushClient(server.url, token, state_path=path, options=options) as after:
                assert (await next_of(after)).seq == 2

    async def test_it_is_saved_before_the_ack_is_sent(
        self,
        token: str,
        options: ClientOptions,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """磁盘慢也一样：服务器见到确认时，去重记录已在盘上。"""
        save = StateFile.save

        def slow_save(file: StateFile, state: DeviceState) -> None:
            time.sleep(0.02)
            save(file, state)

        async def scene(peer: Peer) -> None:
            await peer.welcome()
            await peer.send(new_message(1))
            await peer.receive("ack")
            saved.set(json.loads(path.read_bytes()))
            await peer.stay()

        monkeypatch.setattr(StateFile, "save", slow_save)
        saved = Signal()
        path = tmp_path / "state.json"
        async with (
            playing(scene) as server,
            PushClient(server.url, token, state_path=path, options=options) as client,
        ):
            await client.ack(await next_of(client))
            state = await saved.wait()
            assert state["applied_ids"] == [message_id(1)]
            assert token not in json.dumps(state)

    async def test_another_user_does_not_inherit_the_position(
        self, token: str, options: ClientOptions, tmp_path: Path
    ) -> None:
        path = tmp_path / "state.json"
        async with playing() as server:
            for one in (token, unsigned_jwt(sub="2")):
                async with PushClient(server.url, one, state_path=path, options=options) as client:
                    await client.wait_connected()
            first, second = server.peers
            assert first.query["device_id"] == second.query["device_id"]
            assert "last_seq" not in second.query

    async def test_a_full_disk_does_not_stop_the_acks(
        self, token: str, options: ClientOptions, tmp_path: Path
    ) -> None:
        async def scene(peer: Peer) -> None:
            await peer.welcome()
            await peer.send(new_message(1))
            await peer.receive_acks(1)
            acked.set()
            await peer.stay()

        acked = Signal()
        (tmp_path / "file").write_text("in the way")
        path = tmp_path / "file" / "state.json"
        async with playing(scene) as server:
            with pytest.raises(NotADirectoryError):
                PushClient(server.url, token, state_path=path, options=options)
            path = tmp_path / "folder" / "state.json"
            client = PushClient(server.url, token, state_path=path, options=options)
            (tmp_path / "folder").write_text("in the way")
            async with client:
                await client.ack(await next_of(client))
                await acked.wait()
