"""SDK 对真的服务器进程：从登录到确认，断线与重启。"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from meeting_push.client import (
    ApiError,
    ClientOptions,
    PushClient,
    PushRefusedError,
    RestClient,
    TokenKeeper,
)
from meeting_push.client.rest_call import DeliveryReport
from meeting_push.model import Draft
from meeting_push.protocol.frames import ReadSync, Receipt
from tests.support.eventually import eventually
from tests.support.people import Person, device
from tests.support.scripted_server import next_of
from tests.support.sdk import QUICK, unsigned_jwt
from tests.support.server_process import ServerProcess

PASSWORD = "correct horse battery"


@pytest.fixture
def options() -> ClientOptions:
    return QUICK


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("sdk")) as process:
        yield process


class Account:
    """一个新用户，和他的 REST 客户端。"""

    def __init__(self, url: str, user_id: int, tokens: TokenKeeper) -> None:
        self.url = url
        self.user_id = user_id
        self.tokens = tokens
        self.rest = RestClient(url, tokens)

    def device(self, options: ClientOptions, state_path: Path | None = None) -> PushClient:
        return PushClient(self.url, self.tokens, state_path=state_path, options=options)

    async def delivered(self, message_id: str) -> DeliveryReport:
        """等到没有人还在等。"""

        async def settled() -> DeliveryReport | None:
            report = await self.rest.delivery(message_id)
            return report if report.pending == 0 else None

        report = await eventually(settled)
        assert report is not None
        return report


async def new_account(server: ServerProcess) -> Account:
    rest = RestClient(server.base_url)
    name = f"u{uuid4().hex[:12]}"
    registered = await rest.register(name, PASSWORD)
    return Account(server.base_url, registered.user_id, TokenKeeper(rest, name, PASSWORD))


@pytest.fixture
async def alice(server: ServerProcess) -> Account:
    return await new_account(server)


@pytest.fixture
async def bob(server: ServerProcess) -> Account:
    return await new_account(server)


async def test_a_message_is_received_acked_and_reported_delivered(
    alice: Account, bob: Account, options: ClientOptions
) -> None:
    async with bob.device(options) as phone:
        await phone.wait_connected()
        sent = await alice.rest.send([bob.user_id], "hello", "world", priority=7, data={"a": 1})
        message = await next_of(phone)
        message.ack()
        assert (message.message_id, message.title, message.data) == (
            sent.message_id,
            "hello",
            {"a": 1},
        )
        report = await alice.delivered(sent.message_id)
    assert (report.total, report.delivered) == (1, 1)


async def test_who_was_away_has_all_of_it_urgent_first(
    server: ServerProcess, alice: Account, bob: Account, options: ClientOptions
) -> None:
    plain = await alice.rest.send([bob.user_id], "plain", "c")
    urgent = await alice.rest.send([bob.user_id], "urgent", "c", priority=9)
    person = Person(bob.user_id, "bob", await bob.tokens())

    async def both_in_mailbox() -> bool:
        async with device(server.ws_url(bob.user_id), person) as probe:
            return bool(probe.welcome["pending"] == 2)

    await eventually(both_in_mailbox)
    async with bob.device(options) as phone:
        got = [(await next_of(phone)).message_id for _ in range(2)]
    assert got == [urgent.message_id, plain.message_id]


async def test_dlv_2_a_failed_message_comes_again_and_an_applied_one_does_not(
    alice: Account, bob: Account, options: ClientOptions, tmp_path: Path
) -> None:
    state = tmp_path / "state.json"
    async with bob.device(options, state) as phone:
        await phone.wait_connected()
        sent = [await alice.rest.send([bob.user_id], t, "c") for t in ("one", "two")]
        first = await next_of(phone)
        first.ack()
        second = await next_of(phone)  # 没有确认就走
        assert [first.message_id, second.message_id] == [one.message_id for one in sent]
    await alice.rest.send([bob.user_id], "three", "c")
    async with bob.device(options, state) as phone:
        assert [(await next_of(phone)).title for _ in range(2)] == ["two", "three"]


async def test_dlv_5_a_device_resumes_with_what_another_device_acked(
    alice: Account, bob: Account, options: ClientOptions, tmp_path: Path
) -> None:
    state = tmp_path / "laptop.json"
    async with bob.device(options, state) as laptop:
        await laptop.wait_connected()
    async with bob.device(options) as phone:
        await phone.wait_connected()
        sent = await alice.rest.send([bob.user_id], "t", "c")
        (await next_of(phone)).ack()
        await alice.delivered(sent.message_id)
    async with bob.device(options, state) as laptop:
        assert (await next_of(laptop)).message_id == sent.message_id


async def test_dlv_1_the_client_survives_kill_9_of_the_server(
    options: ClientOptions, tmp_path: Path
) -> None:
    # 重启要几秒：退避太短的话，客户端会抢走服务器启动要的 CPU
    patient = replace(options, backoff_base_s=0.05, backoff_cap_s=0.2)
    with ServerProcess(tmp_path) as server:
        alice, bob = await new_account(server), await new_account(server)
        async with bob.device(patient) as phone:
            await phone.wait_connected()
            await alice.rest.send([bob.user_id], "before", "c")
            assert (await next_of(phone)).title == "before"
            await asyncio.to_thread(server.kill)
            await eventually(lambda: not phone.connected.is_set())
            await asyncio.to_thread(server.start)
            await alice.rest.send([bob.user_id], "after", "c")
            assert (await next_of(phone)).title == "after"


async def test_the_sender_gets_the_receipt_he_asked_for(
    alice: Account, bob: Account, options: ClientOptions
) -> None:
    receipts: asyncio.Queue[Receipt] = asyncio.Queue()
    sender = alice.device(options)
    sender.on("receipt", receipts.put_nowait)
    async with sender, bob.device(options) as phone:
        await asyncio.gather(sender.wait_connected(), phone.wait_connected())
        sent = await alice.rest.send([bob.user_id], "t", "c", receipt=True)
        (await next_of(phone)).ack()
        receipt = await asyncio.wait_for(receipts.get(), 10)
    assert (receipt.message_id, receipt.recipient_id, receipt.status) == (
        sent.message_id,
        bob.user_id,
        "delivered",
    )


async def test_reading_on_one_device_is_told_to_the_other(
    alice: Account, bob: Account, options: ClientOptions
) -> None:
    synced: asyncio.Queue[ReadSync] = asyncio.Queue()
    laptop = bob.device(options)
    laptop.on("read_sync", synced.put_nowait)
    async with laptop, bob.device(options) as phone:
        await asyncio.gather(laptop.wait_connected(), phone.wait_connected())
        sent = await alice.rest.send([bob.user_id], "t", "c")
        message = await next_of(phone)
        await phone.mark_read([message.message_id])
        frame = await asyncio.wait_for(synced.get(), 10)
    assert (list(frame.message_ids), frame.unread_count) == ([sent.message_id], 0)
    page = await bob.rest.inbox()
    assert (page.unread_count, page.items[0].read_at is not None) == (0, True)


async def test_the_inbox_by_rest_is_the_one_of_the_other_sdk(alice: Account, bob: Account) -> None:
    """归档、数目、发出去的、撤回、在不在；别的设备得到 ``inbox_sync``。"""
    one, two = [await alice.rest.send([bob.user_id], t, "c", priority=7) for t in ("one", "two")]
    counts = await bob.rest.counts()
    assert (counts.unread, counts.urgent, counts.archived) == (2, 2, 0)
    change = await bob.rest.archive([one.message_id, "0" * 26])
    assert (change.unread_count, change.unknown) == (1, ["0" * 26])
    [kept] = (await bob.rest.inbox(archived=True)).items
    assert (kept.message_id, kept.archived_at is not None) == (one.message_id, True)
    assert [item.title for item in (await bob.rest.inbox(q="tw")).items] == ["two"]
    assert (await bob.rest.set_state([two.message_id], read=True)).unread_count == 0
    assert (await bob.rest.set_state([two.message_id], read=True)).version == change.version + 1
    sent = await alice.rest.sent(limit=1)
    assert [(item.title, item.recipient_count) for item in sent.items] == [("two", 1)]
    assert [person.user_id for person in sent.items[0].recipients] == [bob.user_id]
    assert sent.next_cursor == two.message_id
    await alice.rest.withdraw(two.message_id)
    gone = await bob.rest.message(two.message_id)
    assert (gone.title, gone.withdrawn_at is not None) == ("", True)
    assert (await alice.rest.presence(bob.user_id)).online is False


async def test_a_batch_is_accepted_as_one(alice: Account, bob: Account) -> None:
    drafts = [Draft(recipient_ids=(bob.user_id,), title=str(n), content="c") for n in range(3)]
    accepted = await alice.rest.send_batch(drafts)
    page = await bob.rest.inbox()
    assert [item.message_id for item in page.items] == [a.message_id for a in reversed(accepted)]
    assert await bob.rest.read_upto(accepted[1].message_id) == 1


async def test_the_same_idempotency_key_sends_once(alice: Account, bob: Account) -> None:
    first, second = [
        await alice.rest.send([bob.user_id], "t", "c", idempotency_key="k") for _ in range(2)
    ]
    assert first == second


async def test_unknown_recipients_are_a_typed_error(alice: Account) -> None:
    with pytest.raises(ApiError) as caught:
        await alice.rest.send([alice.user_id, 2**40], "t", "c")
    assert (caught.value.status, caught.value.code) == (422, "unknown_recipients")


async def test_sec_1_the_token_of_another_user_is_refused_for_good(
    alice: Account, bob: Account, options: ClientOptions
) -> None:
    client = PushClient(alice.url, alice.tokens, user_id=bob.user_id, options=options)
    with pytest.raises(PushRefusedError) as caught:
        await client.wait_connected()
    assert (caught.value.close_code, caught.value.reason) == (4501, "forbidden")


async def test_a_forged_token_is_refused_for_good(
    server: ServerProcess, options: ClientOptions
) -> None:
    with pytest.raises(PushRefusedError) as caught:
        await PushClient(server.base_url, unsigned_jwt(sub="1"), options=options).wait_connected()
    assert caught.value.close_code == 4500


FORKING = """
import asyncio, os, sys
from meeting_push import RestClient

url, token, recipient = sys.argv[1:]
rest = RestClient(url, token)
send = lambda title: rest.send([int(recipient)], title, "c")

async def parent():
    await send("before")
    child = os.fork()
    if child == 0:
        asyncio.run(send("child"))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    await send("parent")

asyncio.run(parent())
"""


async def test_parent_and_child_of_a_fork_share_no_connection(alice: Account, bob: Account) -> None:
    arguments = [alice.url, await alice.tokens(), str(bob.user_id)]
    ran = await asyncio.create_subprocess_exec(sys.executable, "-c", FORKING, *arguments)
    assert await ran.wait() == 0
    assert {one.title for one in (await bob.rest.inbox()).items} == {"before", "child", "parent"}
