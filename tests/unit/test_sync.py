"""同步的发布者：经 REST 的与写发件箱的，方法相同；从线程里用，像 Django、Celery 那样。"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator

import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from meeting_push import (
    ApiError,
    Draft,
    InvalidInputError,
    MeetingPush,
    RestOptions,
    Sender,
    ServerUnreachableError,
    Settings,
)
from meeting_push.sync import OutboxPublisher, Publisher
from tests.support.accounts import sign
from tests.support.embedded import hosted
from tests.support.eventually import eventually
from tests.support.server_process import TEST_JWT_SECRET

pytest_plugins = ["meeting_push.testing"]

SHOP = Sender(7, "shop")


def drafts(*titles: str) -> list[Draft]:
    return [Draft(recipient_ids=(2,), title=title, content="") for title in titles]


@pytest.fixture
def settings(push_settings: Settings, database_url: str) -> Settings:
    """扫描自己要等一分钟：到得了的都是叫醒的。"""
    return push_settings.changed(
        database_url=database_url,
        jwt_secret=SecretStr(TEST_JWT_SECRET),
        jwt_audience="meeting-push",
        relay_interval_s=60,
        relay_grace_s=60,
    )


@pytest.fixture
async def push(settings: Settings) -> AsyncIterator[MeetingPush]:
    push = MeetingPush(settings)
    async with push.lifespan(FastAPI()):
        yield push


@pytest.fixture
async def outbox(settings: Settings, push: MeetingPush) -> AsyncIterator[OutboxPublisher]:
    with Publisher.into_outbox(settings) as publisher:
        yield publisher
        await asyncio.to_thread(publisher.close)


@pytest.fixture
async def rest(settings: Settings) -> AsyncIterator[Publisher]:
    async with hosted(MeetingPush(settings)) as address:
        with Publisher(f"http://{address}", sign(7, "shop")) as publisher:
            yield publisher


async def arrived(push: MeetingPush, *titles: str) -> None:
    async def all_here() -> bool:
        box = await push.mailbox.get_offline_messages(2)
        return {one.tail.title for one in box} == set(titles)

    await eventually(all_here, 30)


def test_both_have_the_same_methods() -> None:
    for name in ("send", "send_batch", "close"):
        rest, outbox = getattr(Publisher, name), getattr(OutboxPublisher, name)
        assert inspect.signature(rest) == inspect.signature(outbox), name


async def test_what_is_written_into_the_outbox_leaves_at_once(
    push: MeetingPush, outbox: OutboxPublisher
) -> None:
    await asyncio.to_thread(outbox.send, [2], "one", "", sender=SHOP)
    await asyncio.to_thread(outbox.send_batch, drafts("two", "three"))
    await arrived(push, "one", "two", "three")


async def test_a_recipient_may_be_a_string(push: MeetingPush, outbox: OutboxPublisher) -> None:
    sent = await asyncio.to_thread(outbox.send, ["ann@shop.example"], "hello", "")

    async def waiting() -> bool:
        number = await push.people.number("ann@shop.example")
        box = await push.mailbox.get_offline_messages(number)
        return [one.tail.message_id for one in box] == [sent.message_id]

    await eventually(waiting, 30)


async def test_the_same_key_sends_once(push: MeetingPush, outbox: OutboxPublisher) -> None:
    def twice() -> set[str]:
        batches = [outbox.send_batch(drafts("once"), idempotency_key="k") for _ in range(2)]
        return {one.message_id for batch in batches for one in batch}

    assert len(await asyncio.to_thread(twice)) == 1
    await arrived(push, "once")


async def test_in_the_applications_own_transaction(
    push: MeetingPush, outbox: OutboxPublisher, settings: Settings
) -> None:
    def order() -> None:
        url = settings.sql_url.replace("+aiosqlite", "").replace("+asyncpg", "+psycopg")
        engine = create_engine(url)
        with Session(engine) as session:
            outbox.send_in_transaction(session, drafts("rolled back")[0], sender=SHOP)
            session.rollback()
        with Session(engine) as session:
            outbox.send_in_transaction(session, drafts("committed")[0], sender=SHOP)
            session.commit()
        engine.dispose()
        outbox.notify_committed()

    await asyncio.to_thread(order)
    await arrived(push, "committed")


async def test_bad_input_is_our_error_and_the_publisher_goes_on(
    push: MeetingPush, outbox: OutboxPublisher
) -> None:
    with pytest.raises(InvalidInputError):
        await asyncio.to_thread(outbox.send, [2], "", "")
    await asyncio.to_thread(outbox.send, [2], "good", "")
    await arrived(push, "good")


async def test_over_rest_several_threads_share_it(rest: Publisher) -> None:
    def work() -> list[str]:
        sent = [rest.send([2], f"{n}", "") for n in range(5)]
        sent += rest.send_batch(drafts("a", "b"))
        assert rest.delivery(sent[0].message_id).total == 1
        return [one.message_id for one in sent]

    ids = await asyncio.gather(*(asyncio.to_thread(work) for _ in range(8)))
    assert len({each for some in ids for each in some}) == 8 * 7


async def test_over_rest_the_servers_error_comes_back(rest: Publisher) -> None:
    with pytest.raises(ApiError) as caught:
        await asyncio.to_thread(rest.send, [2], "", "")
    assert (caught.value.status, caught.value.code) == (422, "invalid_input")


# ── 坏的服务器 ──────────────────────────────────────────────────────────────


OK = b'{"message_id":"m","recipient_count":1,"created_at":1}'


class Scripted:
    """一条连接答 ``each`` 次就关；记下每个请求的头。"""

    def __init__(self, each: int, statuses: list[int]) -> None:
        self.each, self.statuses = each, statuses
        self.heads: list[str] = []
        self.connections = 0
        self.ended = list[asyncio.Future[None]]()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        ended = asyncio.get_running_loop().create_future()
        self.ended.append(ended)
        for _ in range(self.each):
            try:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            except asyncio.IncompleteReadError:
                break
            await reader.readexactly(int(head.split("content-length: ")[1].split("\r\n")[0]))
            self.heads.append(head)
            status = self.statuses.pop(0) if self.statuses else 202
            writer.write(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n" % (status, len(OK)) + OK)
        writer.close()
        await writer.wait_closed()
        ended.set_result(None)


async def scripted(script: Scripted, count: int, **options: float) -> None:
    server = await asyncio.start_server(script, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        fast = RestOptions(backoff_base_s=0, **options)  # type: ignore[arg-type]
        with Publisher(f"http://127.0.0.1:{port}", "mpk_x", options=fast) as publisher:
            for _ in range(count):
                await asyncio.to_thread(publisher.send, [2], "t", "")
    await asyncio.gather(*script.ended)


async def test_a_connection_is_kept() -> None:
    script = Scripted(10, [])
    await scripted(script, 4)
    assert (script.connections, len(script.heads)) == (1, 4)


async def test_a_connection_closed_while_idle_is_replaced_at_once() -> None:
    script = Scripted(1, [])
    await scripted(script, 3, retries=0)
    assert (script.connections, len(script.heads)) == (3, 3)


async def test_a_retry_has_the_same_key() -> None:
    script = Scripted(10, [503, 429])
    await scripted(script, 1)
    keys = {head.split("idempotency-key: ")[1].split("\r\n")[0] for head in script.heads}
    assert (len(script.heads), len(keys)) == (3, 1)
    assert all("authorization: bearer mpk_x" in head for head in script.heads)


def test_nobody_there_is_said_so() -> None:
    options = RestOptions(retries=0, timeout_s=1)
    with (
        Publisher("http://127.0.0.1:1", "mpk_x", options=options) as publisher,
        pytest.raises(ServerUnreachableError),
    ):
        publisher.send([2], "t", "")


def test_no_thread_is_left(settings: Settings) -> None:
    before = threading.active_count()
    with Publisher.into_outbox(settings) as publisher:
        publisher.send([2], "t", "")
    assert threading.active_count() == before
