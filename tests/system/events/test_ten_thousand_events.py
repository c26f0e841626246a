"""一万件事送给一个时好时坏、死过两次的接收者：一件不少，同一条消息的照次序。"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import event_receiver_process
from tests.support.child import Child
from tests.support.event_receivers import SECRET, Journal
from tests.support.eventually import eventually
from tests.support.people import Device, Person, api_of, device, register
from tests.support.ports import free_port
from tests.support.server_process import ServerProcess

ROOT = Path(event_receiver_process.__file__).parents[2]
#: 每条三件：收下、送达、读了。
MESSAGES = 3_400
BATCH = 170
#: 忙的机器上一步可以等这么久。
PATIENCE_S = 240
KINDS = ("message.accepted", "message.delivered", "message.read")


class Receiver:
    """死了再起，记下的都在。"""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self.file = directory / "journal"
        self.file.touch()
        self._log = directory / "receiver.log"
        self._child: Child | None = None
        self._journal, self._seen = Journal(), 0

    def start(self) -> None:
        command = [sys.executable, event_receiver_process.__file__]
        environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
        self._child = Child([*command, str(self.port), str(self.file)], self._log, env=environment)

    def kill(self) -> None:
        assert self._child is not None
        self._child.kill()

    def stop(self) -> None:
        if self._child is not None:
            print(self._child.output)
            self._child.stop()

    def journal(self) -> Journal:
        """至今写下的；只读上次之后多出来的整行。"""
        with self.file.open("rb") as file:
            file.seek(self._seen)
            written = file.read()
        whole = written[: written.rfind(b"\n") + 1]
        self._seen += len(whole)
        self._journal.read(whole.splitlines())
        return self._journal

    async def has(self, share: float) -> None:
        """收下了一万件的这么多。"""
        wanted = int(MESSAGES * len(KINDS) * share)
        await eventually(lambda: len(self.journal().events) >= wanted, PATIENCE_S)


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    receiver = Receiver(tmp_path)
    receiver.start()
    yield receiver
    receiver.stop()


@pytest.fixture
def server(tmp_path: Path, receiver: Receiver, empty_database_url: str) -> Iterator[ServerProcess]:
    hooks = tmp_path / "hooks.yaml"
    hooks.write_text(
        f"- {{url: 'http://127.0.0.1:{receiver.port}/in', secret: {SECRET},"
        f" events: [{', '.join(KINDS)}]}}\n"
    )
    settings = {"webhooks": hooks, "sends_per_user_per_s": 0, "mailbox_max_entries": 10_000}
    server = ServerProcess(tmp_path, database_url=empty_database_url, settings=settings)
    try:
        yield server.start(PATIENCE_S)
    finally:
        server.stop()


async def send(server: ServerProcess, alice: Person, bob: Person, count: int) -> list[str]:
    one = {"recipient_ids": [bob.user_id], "title": "t", "content": "c"}
    batch = {"messages": [one] * BATCH}
    found: list[str] = []
    async with api_of(server.base_url, alice) as api:
        for _ in range(count // BATCH):
            answer = await api.post("/messages/batch", json=batch, timeout=PATIENCE_S)
            assert answer.status_code == 202, answer.text
            found += [each["message_id"] for each in answer.json()["results"]]
    return found


async def receive(phone: Device, count: int) -> None:
    """收下、确认 ``count`` 条；再来的也确认。"""
    seen: set[str] = set()
    while len(seen) < count:
        message_id = (await phone.next_message(PATIENCE_S))["message_id"]
        seen.add(message_id)
        await phone.ack(message_id)
    await phone.round_trip()


async def read(server: ServerProcess, bob: Person, upto: str) -> None:
    async with api_of(server.base_url, bob) as api:
        answer = await api.post(
            "/messages/read", json={"upto_message_id": upto}, timeout=PATIENCE_S
        )
        assert answer.status_code == 200, answer.text


async def all_delivered(receiver: Receiver, message_ids: list[str]) -> None:
    """确认都写进了记录：送达的事件都出了门，或等着出门。"""
    wanted = set(message_ids)
    await eventually(
        lambda: wanted <= set(receiver.journal().subjects("message.delivered")), PATIENCE_S
    )


@pytest.mark.timeout(900)
async def test_none_is_lost_and_each_message_keeps_its_order(
    server: ServerProcess, receiver: Receiver
) -> None:
    alice = await register(server.base_url, "alice")
    bob = await register(server.base_url, "bob")
    sent: list[str] = []
    for part in range(2):
        async with device(server.ws_url(bob.user_id), bob) as phone:
            receiving = asyncio.create_task(receive(phone, MESSAGES // 2))
            sent += await send(server, alice, bob, MESSAGES // 2)
            await receiver.has(part / 2 + 0.05)
            receiver.kill()
            await receiving
        receiver.start()
        await all_delivered(receiver, sent)
        if part == 1:
            server.kill()  # 接手的等租约过去
            server.start(PATIENCE_S)
        await read(server, bob, sent[-1])
    await receiver.has(1)
    journal = receiver.journal()
    for kind in KINDS:
        assert sorted(journal.subjects(kind)) == sorted(sent)
    assert journal.out_of_order() == []
