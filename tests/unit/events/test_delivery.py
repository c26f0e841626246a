"""一次 POST：签名，不跟重定向，挂住的、话多的、要人歇着的。"""

from __future__ import annotations

import asyncio
import json

import pytest

from meeting_push.events.config import WebhookConfig
from meeting_push.events.delivery import MOST_ANSWER_BYTES, Answer, Verdict, WebhookPost, judged
from meeting_push.events.signature import key_of
from meeting_push.events.units import Unit, events_of
from meeting_push.storage.event_queue import EventRow
from tests.support.event_receivers import SECRET, verified
from tests.support.notice_receivers import HttpReceiver, Received, Reply, http_receiver

ROW = EventRow(
    id=1,
    batch_id="01HZZZZZZZZZZZZZZZZZZZZZZZ",
    first_event=3,
    kind="message.delivered",
    items=json.dumps([["M1", 5, 10, 20], ["M2", 6, 11, 21]]),
    event_count=2,
    created_at=1_800_000_000_123,
    since=0,
    attempts=0,
    next_at=0,
    failing_since=None,
    aside=False,
)


def config(receiver: HttpReceiver) -> WebhookConfig:
    url = f"http://{receiver.host}/in?token=t0"
    return WebhookConfig(url, (key_of(SECRET),), frozenset({"message.delivered"}))


async def sent(receiver: HttpReceiver, timeout_s: float = 5.0) -> Answer:
    post = WebhookPost(config(receiver), timeout_s=timeout_s)
    try:
        return await post.deliver(Unit.of(ROW))
    finally:
        await post.close()


async def test_it_is_signed_and_says_what_happened() -> None:
    async with http_receiver() as receiver:
        assert (await sent(receiver)).verdict is Verdict.DONE
    [request] = receiver.requests
    assert request.target == "/in?token=t0"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["webhook-id"] == "evt_01HZZZZZZZZZZZZZZZZZZZZZZZ_3_2"
    assert verified(request.body, request.headers) == [
        {
            "id": "evt_01HZZZZZZZZZZZZZZZZZZZZZZZ_3",
            "type": "message.delivered",
            "timestamp": "2027-01-15T08:00:00.123Z",
            "data": {"message_id": "M1", "user_id": 5, "sent_at": 10, "delivered_at": 20},
        },
        {
            "id": "evt_01HZZZZZZZZZZZZZZZZZZZZZZZ_4",
            "type": "message.delivered",
            "timestamp": "2027-01-15T08:00:00.123Z",
            "data": {"message_id": "M2", "user_id": 6, "sent_at": 11, "delivered_at": 21},
        },
    ]


async def test_one_event_is_no_array_and_its_id_is_the_webhooks() -> None:
    one = Unit.of(ROW._replace(items='[["M1",5,10,20]]', event_count=1))
    async with http_receiver() as receiver:
        post = WebhookPost(config(receiver))
        await post.deliver(one)
        await post.close()
    [request] = receiver.requests
    assert json.loads(request.body)["id"] == request.headers["webhook-id"]


async def test_each_attempt_has_the_same_id_and_a_signature_of_its_own_time() -> None:
    unit, moments = Unit.of(ROW), iter([1_800_000_000.0, 1_800_000_400.0])
    refuse = Reply(status=500, headers={"Connection": "close"})
    async with http_receiver(lambda _: refuse) as receiver:
        post = WebhookPost(config(receiver), clock_s=lambda: next(moments))
        for _ in range(2):
            await post.deliver(unit)
        await post.close()
    first, second = (request.headers for request in receiver.requests)
    assert first["webhook-id"] == second["webhook-id"]
    assert first["webhook-timestamp"] != second["webhook-timestamp"]
    assert first["webhook-signature"] != second["webhook-signature"]


async def test_a_redirect_is_not_followed() -> None:
    async with http_receiver() as other, http_receiver() as receiver:
        away = Reply(status=307, headers={"Location": f"http://{other.host}/"})
        receiver.answer = lambda _: away
        answer = await sent(receiver)
    assert answer.verdict is Verdict.AGAIN
    assert "redirects are not followed" in answer.why
    assert other.requests == []


async def test_who_hangs_is_given_up() -> None:
    released = asyncio.Event()

    async def hang(_: Received) -> Reply:
        await released.wait()
        return Reply()

    async with http_receiver(hang) as receiver:
        answer = await sent(receiver, timeout_s=0.2)
        released.set()
    assert answer == Answer(Verdict.AGAIN, "no answer in 0.2 s")


async def test_an_answer_of_two_megabytes_is_cut() -> None:
    async with http_receiver(lambda _: Reply(b"x" * 2_000_000, 500)) as receiver:
        answer = await sent(receiver)
    assert answer.verdict is Verdict.AGAIN
    assert len(answer.why) < 200 < MOST_ANSWER_BYTES


@pytest.mark.parametrize(
    "reply",
    [
        Reply(b"a 204 has no body", 204),
        Reply(b"hello", 200, {"Content-Length": "2"}),
        Reply(b"short", 202, {"Content-Length": "100"}),
        Reply(b"no gzip", 200, {"Content-Encoding": "gzip"}),
        Reply(b"x" * 2_000_000),
    ],
)
async def test_any_2xx_settles_it_whatever_comes_after_its_head(reply: Reply) -> None:
    async with http_receiver(lambda _: reply) as receiver:
        assert await sent(receiver) == Answer(Verdict.DONE, f"HTTP {reply.status}")


async def test_who_takes_it_and_then_hangs_has_taken_it() -> None:
    released = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nfour")
        await released.wait()
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    receiver = HttpReceiver(lambda _: Reply())
    receiver.port = server.sockets[0].getsockname()[1]
    async with server:
        answer = await sent(receiver, timeout_s=0.5)
        released.set()
    assert answer == Answer(Verdict.DONE, "HTTP 200")


async def test_nobody_there() -> None:
    async with http_receiver() as receiver:
        pass
    answer = await sent(receiver)
    assert answer.verdict is Verdict.AGAIN
    assert receiver.host not in answer.why


@pytest.mark.parametrize(
    ("status", "retry_after", "expected"),
    [
        (204, None, Answer(Verdict.DONE, "HTTP 204")),
        (299, None, Answer(Verdict.DONE, "HTTP 299")),
        (410, None, Answer(Verdict.GONE, "HTTP 410")),
        (429, "7", Answer(Verdict.AGAIN, "HTTP 429", 7)),
        (503, "999999999", Answer(Verdict.AGAIN, "HTTP 503", 3600)),
        (503, "Wed, 21 Oct", Answer(Verdict.AGAIN, "HTTP 503")),
        (400, None, Answer(Verdict.REFUSED, "HTTP 400")),
        (408, None, Answer(Verdict.AGAIN, "HTTP 408")),
        (502, None, Answer(Verdict.AGAIN, "HTTP 502")),
    ],
)
def test_what_a_status_means(status: int, retry_after: str | None, expected: Answer) -> None:
    assert judged(status, retry_after, b"") == expected


def test_another_versions_row_is_still_told() -> None:
    older, newer = '[["M1",5]]', '[["M1",5,10,20,"later",6]]'
    for items in (older, newer):
        [event] = events_of(Unit.of(ROW._replace(items=items)))
        assert list(event.data) == ["message_id", "user_id", "sent_at", "delivered_at"]
