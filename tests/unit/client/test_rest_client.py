"""REST：请求的样子、回答的样子、重试的规矩。"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from meeting_push.client import ApiError, RestClient, RestOptions, ServerUnreachableError
from meeting_push.client.rest_call import Counts, Registered, StateChange, UserPresence
from meeting_push.model import Accepted, DeliveryStatus, Draft
from tests.support.scripted_server import message_id

from .scripted_api import Reply, answering, error

ACCEPTED = {"message_id": message_id(1), "recipient_count": 2, "created_at": 5}
QUICK = RestOptions(backoff_base_s=0.001)


async def test_send_says_everything_and_returns_the_receipt() -> None:
    async with answering(Reply(202, ACCEPTED)) as api:
        accepted = await RestClient(api.url, "secret").send(
            [1, 2], "t", "c", priority=7, data={"a": 1}, receipt=True
        )
        [asked] = api.asked
    assert accepted == Accepted(message_id(1), 2, 5)
    assert (asked.method, asked.path) == ("POST", "/api/v1/messages")
    assert asked.headers["Authorization"] == "Bearer secret"
    assert asked.body == {
        "recipient_ids": [1, 2],
        "title": "t",
        "content": "c",
        "message_type": "message",
        "priority": 7,
        "expires_in_s": None,
        "deliver_at": None,
        "data": {"a": 1},
        "receipt": True,
    }


async def test_a_retried_send_keeps_its_idempotency_key() -> None:
    busy = error(503, "unavailable", temporary=True, Retry_After="0")
    async with answering(busy, Reply(0), Reply(202, ACCEPTED)) as api:
        await RestClient(api.url, "t", options=QUICK).send([1], "t", "c")
        keys = {asked.headers["Idempotency-Key"] for asked in api.asked}
        assert len(api.asked) == 3
        assert len(keys) == 1


async def test_each_send_has_its_own_idempotency_key() -> None:
    async with answering(Reply(202, ACCEPTED), Reply(202, ACCEPTED)) as api:
        rest = RestClient(api.url, "t")
        await rest.send([1], "t", "c")
        await rest.send([1], "t", "c")
        first, second = api.asked
        assert first.headers["Idempotency-Key"] != second.headers["Idempotency-Key"]


async def test_the_caller_may_give_the_idempotency_key() -> None:
    async with answering(Reply(202, ACCEPTED)) as api:
        await RestClient(api.url, "t").send([1], "t", "c", idempotency_key="mine")
        assert api.asked[0].headers["Idempotency-Key"] == "mine"


async def test_retries_are_bounded() -> None:
    full = error(429, "queue_full", temporary=True, Retry_After="0")
    async with answering(*[full] * 3) as api:
        options = RestOptions(backoff_base_s=0.001, retries=2)
        with pytest.raises(ApiError) as caught:
            await RestClient(api.url, "t", options=options).send([1], "t", "c")
        assert caught.value.code == "queue_full"
        assert len(api.asked) == 3


async def test_a_wait_longer_than_allowed_is_left_to_the_caller() -> None:
    async with answering(error(429, "rate_limited", temporary=True, Retry_After="31")) as api:
        with pytest.raises(ApiError) as caught:
            await RestClient(api.url, "t", options=QUICK).inbox()
        assert caught.value.retry_after_s == 31


@pytest.mark.parametrize(
    "call",
    [
        lambda rest: rest.login("a", "b"),
        lambda rest: rest.register("a", "b"),
        lambda rest: rest.refresh("r"),
        lambda rest: rest.logout(),
    ],
)
async def test_what_is_not_idempotent_is_tried_once(
    call: Callable[[RestClient], Awaitable[object]],
) -> None:
    async with answering(error(503, "unavailable", temporary=True)) as api:
        with pytest.raises(ApiError):
            await call(RestClient(api.url, "t", options=QUICK))
        assert len(api.asked) == 1


async def test_a_refusal_carries_the_contract_error() -> None:
    async with answering(error(422, "unknown_recipients")) as api:
        with pytest.raises(ApiError) as caught:
            await RestClient(api.url, "t", options=QUICK).send([9], "t", "c")
        refused = caught.value
        assert (refused.status, refused.code, refused.temporary) == (
            422,
            "unknown_recipients",
            False,
        )
        assert refused.details == {"a": 1}
        assert len(api.asked) == 1


@pytest.mark.parametrize("status", [200, 302, 404, 502])
async def test_an_answer_that_is_not_ours_is_a_typed_error(status: int) -> None:
    async with answering(Reply(status, b"<html>")) as api:
        with pytest.raises(ApiError) as caught:
            await RestClient(api.url, "t", options=QUICK).inbox()
        assert (caught.value.status, caught.value.code) == (status, "unexpected_answer")


async def test_no_answer_is_a_typed_temporary_error() -> None:
    async with answering(Reply(0)) as api:
        with pytest.raises(ServerUnreachableError) as caught:
            await RestClient(api.url, "t", options=RestOptions(retries=0)).inbox()
        assert caught.value.temporary


async def test_register_and_login_send_no_token() -> None:
    async with answering(Reply(201, {"user_id": 1, "username": "a"})) as api:
        registered = await RestClient(api.url).register("a", "pw")
        assert registered == Registered(1, "a")
        assert "Authorization" not in api.asked[0].headers


async def test_logout_expects_no_body() -> None:
    async with answering(Reply(204)) as api:
        await RestClient(api.url, "t").logout()
        assert api.asked[0].path == "/api/v1/auth/logout"


async def test_send_batch_returns_the_results_in_order() -> None:
    results = [ACCEPTED, ACCEPTED | {"message_id": message_id(2)}]
    async with answering(Reply(202, {"results": results})) as api:
        drafts = [Draft(recipient_ids=(1,), title="t", content="c")] * 2
        accepted = await RestClient(api.url, "t").send_batch(drafts)
        assert [one.message_id for one in accepted] == [message_id(1), message_id(2)]
        assert len(api.asked[0].body["messages"]) == 2


async def test_inbox_pages_by_cursor() -> None:
    item = {
        "message_id": message_id(1),
        "message_type": "message",
        "priority": 0,
        "title": "t",
        "content": "c",
        "sender": {"id": 2, "name": "bob"},
        "timestamp": 1,
        "expires_at": 2,
        "data": None,
        "read_at": None,
        "status": "delivered",
    }
    page = {"items": [item], "next_cursor": "n", "unread_count": 4}
    async with answering(Reply(200, page)) as api:
        inbox = await RestClient(api.url, "t").inbox(unread=True, cursor="a&b", limit=10)
        assert api.asked[0].path == "/api/v1/messages?unread=true&limit=10&cursor=a%26b"
    assert (inbox.unread_count, inbox.next_cursor, inbox.items[0].title) == (4, "n", "t")


CHANGED = {"unread_count": 3, "version": 7, "unknown": []}


async def test_the_rest_of_the_inbox_is_the_contracts() -> None:
    """名字同 JavaScript 的；一次一个调用，没有说的不写进请求。"""
    one = message_id(1)
    answers = [
        Reply(200, {"items": [], "next_cursor": None, "unread_count": 0}),
        Reply(200, {"items": [], "next_cursor": "n"}),
        Reply(200, {"unread": 3, "urgent": 1, "archived": 2, "version": 7}),
        *[Reply(200, CHANGED)] * 3,
        Reply(204),
        Reply(200, {"user_id": "u-1", "online": True}),
    ]
    async with answering(*answers) as api:
        rest = RestClient(api.url, "t")
        await rest.inbox(archived=True, message_type="system", min_priority=5, q="会")
        assert (await rest.sent(limit=2, cursor="c")).next_cursor == "n"
        assert await rest.counts() == Counts(3, 1, 2, 7)
        assert await rest.set_state([one], read=False) == StateChange(3, 7, [])
        await rest.archive([one])
        await rest.archive([one], False)
        await rest.withdraw(one)
        assert await rest.presence("u-1") == UserPresence("u-1", True)
    assert [(asked.method, asked.path.removeprefix("/api/v1")) for asked in api.asked] == [
        ("GET", "/messages?archived=true&message_type=system&min_priority=5&q=%E4%BC%9A&limit=50"),
        ("GET", "/messages/sent?limit=2&cursor=c"),
        ("GET", "/messages/counts"),
        *[("POST", "/messages/state")] * 3,
        ("DELETE", f"/messages/{one}"),
        ("GET", "/presence/users/u-1"),
    ]
    assert [asked.body for asked in api.asked[3:6]] == [
        {"message_ids": [one], "read": False},
        {"message_ids": [one], "archived": True},
        {"message_ids": [one], "archived": False},
    ]


async def test_withdrawing_is_tried_again() -> None:
    async with answering(error(503, "unavailable", temporary=True), Reply(204)) as api:
        await RestClient(api.url, "t", options=QUICK).withdraw(message_id(1))
        assert len(api.asked) == 2


async def test_read_returns_the_unread_count() -> None:
    async with answering(*[Reply(200, {"unread_count": 3})] * 2) as api:
        rest = RestClient(api.url, "t")
        assert await rest.read([message_id(1)]) == 3
        assert await rest.read_upto(message_id(1)) == 3
        assert [asked.body for asked in api.asked] == [
            {"message_ids": [message_id(1)]},
            {"upto_message_id": message_id(1)},
        ]


async def test_delivery_reports_each_recipient() -> None:
    recipient = {
        "user_id": 2,
        "status": "delivered",
        "attempts": 1,
        "sent_at": 1,
        "delivered_at": 2,
        "failed_at": None,
        "failure_reason": None,
    }
    counts = {"total": 1, "pending": 0, "delivered": 1, "failed": 0, "expired": 0}
    report = {"message_id": message_id(1), **counts, "recipients": [recipient], "next_cursor": None}
    async with answering(Reply(200, report)) as api:
        delivery = await RestClient(api.url, "t").delivery(message_id(1))
        assert api.asked[0].path == f"/api/v1/messages/{message_id(1)}/delivery?limit=100"
    assert delivery.recipients[0].status is DeliveryStatus.DELIVERED
    assert delivery.recipients[0].name is None  # 从前的服务器不说


async def test_delivery_says_the_names_that_the_directory_shows() -> None:
    times = dict.fromkeys(("sent_at", "delivered_at", "failed_at", "failure_reason"))
    state = {"status": "pending", "attempts": 0, **times}
    recipients = [{"user_id": 2, "name": "Ben Ray", **state}, {"user_id": 3, "name": None, **state}]
    counts = {"total": 2, "pending": 2, "delivered": 0, "failed": 0, "expired": 0}
    report = {"message_id": message_id(1), **counts, "recipients": recipients, "next_cursor": None}
    async with answering(Reply(200, report)) as api:
        delivery = await RestClient(api.url, "t").delivery(message_id(1))
    found = [(each.user_id, each.name) for each in delivery.recipients]
    assert found == [(2, "Ben Ray"), (3, None)]


async def test_delivery_statistics_of_a_window() -> None:
    counts = {"sent": 9, "delivered": 5, "failed": 1, "expired": 1, "pending": 2, "rate": 0.5}
    async with answering(Reply(200, counts)) as api:
        statistics = await RestClient(api.url, "t").delivery_statistics(4, window_s=60)
        assert api.asked[0].path == "/api/v1/users/4/delivery-statistics?window_s=60"
    assert (statistics.sent, statistics.pending) == (9, 2)
