"""DLV-2：重启之后，同一份状态文件，另一个 ``PushClient``。"""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path

import pytest

from meeting_push.client import ClientOptions, PushClient
from meeting_push.client.ledger import DeviceState, StateFile
from tests.support.scripted_server import (
    Peer,
    Signal,
    message_id,
    new_message,
    next_of,
    playing,
    sending,
)
from tests.support.sdk import unsigned_jwt


async def test_dlv_2_exactly_once_across_a_restart(
    token: str, options: ClientOptions, tmp_path: Path
) -> None:
    async def second(peer: Peer) -> None:
        assert peer.query["device_id"] == server.peers[0].query["device_id"]
        assert peer.query["last_seq"] == "1"
        await peer.welcome(seq=1)
        await peer.send(new_message(1, attempt=1), new_message(2))
        await peer.receive_acks(1)
        await peer.stay()

    path = tmp_path / "state.json"
    async with playing(sending(new_message(1)), second) as server:
        async with PushClient(server.url, token, state_path=path, options=options) as before:
            (await next_of(before)).ack()
        async with PushClient(server.url, token, state_path=path, options=options) as after:
            assert (await next_of(after)).seq == 2


async def test_it_is_saved_before_the_ack_is_sent(
    token: str,
    options: ClientOptions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """磁盘慢也一样：服务器见到确认时，去重记录已在盘上。"""
    save, writing, go_on = StateFile.save, threading.Event(), threading.Event()
    told: list[str] = []

    def slow_save(file: StateFile, state: DeviceState) -> None:
        writing.set()
        assert go_on.wait(60), "nobody let the disk go on"
        save(file, state)

    async def scene(peer: Peer) -> None:
        await peer.welcome()
        await peer.send(new_message(1))
        await saving.wait()
        await peer.send(new_message(2))
        await peer.receive("ack")
        told.append("acked")
        saved.set(json.loads(path.read_bytes()))
        await peer.stay()

    monkeypatch.setattr(StateFile, "save", slow_save)
    saving, saved = Signal(), Signal()
    path = tmp_path / "state.json"
    async with (
        playing(scene) as server,
        PushClient(server.url, token, state_path=path, options=options) as client,
    ):
        acking = asyncio.create_task(client.ack(await next_of(client)))
        try:
            assert await asyncio.to_thread(writing.wait, 60)
            saving.set()
            assert (await next_of(client)).seq == 2  # 线路通着，确认却没有出去
            assert not told
        finally:
            go_on.set()
        await acking
        state = await saved.wait()
        assert state["applied_ids"] == [message_id(1)]
        assert token not in json.dumps(state)


async def test_another_user_does_not_inherit_the_position(
    token: str, options: ClientOptions, tmp_path: Path
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
    token: str, options: ClientOptions, tmp_path: Path
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
