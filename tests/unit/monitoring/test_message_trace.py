"""跟着一条消息：几个真的节点，一个 Redis，一个数据库。"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from ulid import ULID

from meeting_push import MeetingPush
from meeting_push.app import create_app
from meeting_push.auth.access_tokens import AccessTokens
from meeting_push.clock import now_ms
from meeting_push.model import Accepted, Sender
from meeting_push.monitoring import message_trace
from meeting_push.monitoring.report import NodeReport
from tests.support.eventually import eventually
from tests.support.node import node
from tests.support.people import device
from tests.support.redis_server import RedisServer
from tests.support.running_node import Node, running_node
from tests.support.server_process import TEST_JWT_SECRET

USER, AWAY = 7, 8
Traced = dict[str, Any]


@pytest.fixture
async def one(
    tmp_path: Path, embedded_redis_server: RedisServer, key_prefix: str
) -> AsyncIterator[Node]:
    async with running_node(tmp_path, embedded_redis_server.url, key_prefix) as running:
        yield running


@contextlib.asynccontextmanager
async def api_of(push: MeetingPush, role: str = "admin") -> AsyncIterator[httpx.AsyncClient]:
    token = AccessTokens(push.settings.auth, TEST_JWT_SECRET).issue(1, role, "", 600)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=create_app(push)),
        base_url="http://node/api/v1",
        headers={"authorization": f"Bearer {token}"},
    ) as api:
        yield api


async def traced(push: MeetingPush, message_id: str, **query: object) -> Traced:
    async with api_of(push) as api:
        answer = await api.get(f"/messages/{message_id}/trace", params=query)  # type: ignore[arg-type]
    assert answer.status_code == 200, answer.text
    found: Traced = answer.json()
    return found


def stages(found: Traced, user_id: int) -> list[str]:
    [recipient] = [each for each in found["recipients"] if each["user_id"] == user_id]
    return [event["stage"] for event in recipient["events"]]


def event(found: Traced, stage: str) -> Traced:
    [recipient] = found["recipients"]
    [one] = [each for each in recipient["events"] if each["stage"] == stage]
    return dict(one)


async def send(push: MeetingPush, *to: int) -> Accepted:
    return await push.messages.send_message_to_multiple(Sender(1, "a"), to, "标题", "c")


async def is_delivered(push: MeetingPush, message_id: str) -> bool:
    counts, _ = await push.confirmation.get_message_delivery_status(message_id)
    return counts.delivered == 1


async def test_a_message_is_followed_from_accept_to_ack(one: Node) -> None:
    push, person = one.push, one.person(USER)
    async with device(one.ws_url(USER), person) as phone:
        sent = await send(push, USER, AWAY)
        await phone.next_message()
        await phone.ack(sent.message_id)
        await eventually(lambda: is_delivered(push, sent.message_id))
        found = await traced(push, sent.message_id)
    assert (found["accepted_at"], found["recipient_count"]) == (sent.created_at, 2)
    assert (found["title"], found["sender_id"], found["silent_nodes"]) == ("标题", 1, [])
    assert stages(found, USER) == [
        *("accepted", "enqueued", "taken", "delivered", "pushed", "acked")
    ]
    assert stages(found, AWAY) == ["accepted", "enqueued", "taken", "delivered"]
    events = found["recipients"][0]["events"]
    assert [each["at"] for each in events] == sorted(each["at"] for each in events)
    assert {each["node_id"] for each in events} == {push.node_id}
    assert [each["source"] for each in events if each["stage"] in ("pushed", "acked")] == [
        *("record", "record")
    ]


async def test_what_is_only_in_the_record_is_told_without_a_recorder(
    tmp_path: Path, embedded_redis_server: RedisServer, key_prefix: str
) -> None:
    settings = {"flight_recorder_entries": 0}
    async with running_node(tmp_path, embedded_redis_server.url, key_prefix, **settings) as one:
        sent = await send(one.push, USER)
        async with device(one.ws_url(USER), one.person(USER)) as phone:
            await phone.next_message()
            await phone.ack(sent.message_id)
            await eventually(lambda: is_delivered(one.push, sent.message_id))
        await one.push.messages.mark_read(USER, [sent.message_id])
        found = await traced(one.push, sent.message_id)
    told = set(stages(found, USER))
    assert (
        {"accepted", "pushed", "acked", "read"}
        <= told
        <= {*("accepted", "enqueued", "pushed", "acked", "read")}
    )
    assert {each["source"] for each in found["recipients"][0]["events"]} == {"record"}


async def test_what_waited_in_the_mailbox_is_seen_pushed(one: Node) -> None:
    sent = await send(one.push, USER)
    await eventually(lambda: one.push.mailbox.get_offline_message_count(USER))
    async with device(one.ws_url(USER), one.person(USER)) as phone:
        await phone.next_message()
        found = await traced(one.push, sent.message_id)
    pushed = event(found, "pushed")
    assert (pushed["source"], pushed["node_id"]) == ("recorder", one.push.node_id)
    assert pushed["detail"] == phone.welcome["connection_id"]


async def test_what_a_device_took_away_without_an_ack_is_seen_pushed(one: Node) -> None:
    async with device(one.ws_url(USER), one.person(USER)) as phone:
        sent = await send(one.push, USER)
        await phone.next_message()
    await eventually(lambda: not one.push.manager.get_user_connections(USER))
    found = await traced(one.push, sent.message_id)
    assert event(found, "pushed")["detail"] == phone.welcome["connection_id"]
    assert found["recipients"][0]["status"] == "pending"


async def test_the_time_of_failing_comes_with_its_reason(one: Node) -> None:
    sent = await send(one.push, USER)
    await eventually(lambda: one.push.mailbox.get_offline_message_count(USER))
    async with api_of(one.push) as api:
        await api.delete(f"/users/{USER}/offline-messages")
    found = await traced(one.push, sent.message_id)
    assert event(found, "failed")["detail"] == "cleared"
    assert found["recipients"][0]["status"] == "failed"


async def test_a_worker_without_sockets_tells_what_it_took(
    tmp_path: Path, embedded_redis_server: RedisServer, key_prefix: str, sqlite_url: str
) -> None:
    shared = {"key_prefix": key_prefix, "jwt_secret": TEST_JWT_SECRET}
    url = embedded_redis_server.url
    async with (
        node(url, sqlite_url, tmp_path, role="api", direct_recipients=0, **shared) as api,
        node(url, sqlite_url, tmp_path, role="worker", **shared) as worker,
    ):
        sent = await send(api, USER)
        await eventually(lambda: api.mailbox.get_offline_message_count(USER))
        await eventually(lambda: reported(api, worker.node_id))
        found = await traced(api, sent.message_id)
        at = {stage: event(found, stage)["node_id"] for stage in ("accepted", "taken", "delivered")}
        assert at == {"accepted": api.node_id, "taken": worker.node_id, "delivered": worker.node_id}
        assert found["silent_nodes"] == []


async def reported(push: MeetingPush, node_id: str) -> bool:
    return node_id in {one.node_id for one in await push._observation.reports.read()}


async def test_a_process_that_does_not_answer_is_named(
    one: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(message_trace, "ANSWER_S", 0.05)
    reports = one.push._observation.reports
    ghost = msgspec.structs.replace(reports.own(), node_id="ghost", reported_at=now_ms())
    await post(one.push, ghost)
    sent = await send(one.push, USER)
    found = await traced(one.push, sent.message_id)
    assert (found["silent_nodes"], found["fleet_asked"]) == (["ghost"], True)


async def post(push: MeetingPush, report: NodeReport) -> None:
    redis = push._rooms.bus.redis
    await redis.lean.execute(
        "HSET", redis.keys.node_reports, report.node_id, msgspec.json.encode(report)
    )


async def test_without_redis_the_record_is_told_all_the_same(
    tmp_path: Path, private_redis_server: RedisServer, key_prefix: str
) -> None:
    async with running_node(tmp_path, private_redis_server.url, key_prefix) as one:
        sent = await send(one.push, USER)
        private_redis_server.kill()
        found = await traced(one.push, sent.message_id)
        assert (found["fleet_asked"], stages(found, USER)[0]) == (False, "accepted")
        private_redis_server.start()


async def test_recipients_come_page_by_page(one: Node) -> None:
    sent = await send(one.push, *range(10, 15))
    first = await traced(one.push, sent.message_id, limit=3)
    rest = await traced(one.push, sent.message_id, limit=3, cursor=first["next_cursor"])
    pages = [[each["user_id"] for each in page["recipients"]] for page in (first, rest)]
    assert pages == [[10, 11, 12], [13, 14]]
    assert rest["next_cursor"] is None


async def test_one_recipient_may_be_asked_for(one: Node) -> None:
    sent = await send(one.push, *range(10, 15))
    found = await traced(one.push, sent.message_id, recipient=12)
    assert [each["user_id"] for each in found["recipients"]] == [12]
    assert found["next_cursor"] is None


async def test_what_can_not_be_asked_is_refused(one: Node) -> None:
    sent = await send(one.push, USER)
    path = f"/messages/{sent.message_id}/trace"
    async with api_of(one.push) as api:
        answers = [
            (await api.get(f"{path}?{query}")).status_code
            for query in ("recipient=99", "recipient=%2F", "limit=101", "cursor=x")
        ]
    assert answers == [404, 422, 422, 422]


async def test_a_message_nobody_sent_is_not_found(one: Node) -> None:
    async with api_of(one.push) as api:
        answer = await api.get(f"/messages/{ULID()}/trace")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


async def test_only_administrators_follow_messages(one: Node) -> None:
    sent = await send(one.push, USER)
    async with api_of(one.push, "user") as api:
        answer = await api.get(f"/messages/{sent.message_id}/trace")
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")


async def test_one_follows_at_a_time(one: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    reports = one.push._observation.reports
    await post(one.push, msgspec.structs.replace(reports.own(), node_id="ghost"))
    monkeypatch.setattr(message_trace, "ANSWER_S", 0.3)
    sent = await send(one.push, USER)
    async with api_of(one.push) as api:
        path = f"/messages/{sent.message_id}/trace"
        answers = await asyncio.gather(api.get(path), api.get(path))
    assert sorted(each.status_code for each in answers) == [200, 429]
    assert (await traced(one.push, sent.message_id))["recipient_count"] == 1
