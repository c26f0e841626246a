"""一条消息给一万人，百分之一在线：接受、送达、计数都对；后来上线的也得到它。"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import jwt
import pytest

from meeting_push.clock import now_ms
from meeting_push.redis.dial import RedisAddress
from meeting_push.redis.keys import Keys
from meeting_push.redis.lean import LeanConnection
from meeting_push_bench.open_files import allow_sockets
from tests.support.crowd import crowd
from tests.support.eventually import eventually
from tests.support.people import Device, Frame, Person, api_of, delivery
from tests.support.server_process import TEST_JWT_SECRET, ServerProcess

RECIPIENTS = range(1, 10_001)
ONLINE = RECIPIENTS[:100]
LATER = RECIPIENTS[5_000:5_050]
SENDER = 10_001
PAGE = 200


def person(user_id: int) -> Person:
    now = now_ms() // 1000
    claims = {"sub": str(user_id), "aud": "meeting-push", "iat": now, "exp": now + 600}
    name = f"u{user_id}"
    return Person(
        user_id, name, jwt.encode(claims | {"role": "user", "name": name}, TEST_JWT_SECRET)
    )


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    allow_sockets(len(ONLINE) + len(LATER))
    with ServerProcess(tmp_path) as process:
        add_users(tmp_path / "data" / "meeting-push.db")
        yield process


def add_users(path: Path) -> None:
    """直接写进库里：一万次 argon2 与被测的事无关。"""
    rows = [(n, f"u{n}", f"u{n}", "-", "user", 1) for n in (*RECIPIENTS, SENDER)]
    columns = "id, username, username_key, password_hash, role, created_at"
    with closing(sqlite3.connect(path, timeout=10)) as database, database:
        database.executemany(f"INSERT INTO mp_users ({columns}) VALUES (?, ?, ?, ?, ?, ?)", rows)


async def send_to_all(server: ServerProcess) -> str:
    body = {"recipient_ids": list(RECIPIENTS), "title": "all", "content": "of you"}
    async with api_of(server.base_url, person(SENDER)) as api:
        answer = await api.post("/messages", json=body)
    assert (answer.status_code, answer.json()["recipient_count"]) == (202, len(RECIPIENTS))
    return str(answer.json()["message_id"])


async def receive_and_ack(devices: Sequence[Device], message_id: str) -> None:
    messages = await asyncio.gather(*(one.next_message(30) for one in devices))
    assert {message["message_id"] for message in messages} == {message_id}
    for one in devices:
        await one.ack(message_id)
    assert not any(one.has_message() for one in devices)


async def counts_are(server: ServerProcess, message_id: str, delivered: int) -> None:
    async def settled() -> bool:
        report = await delivery(server.base_url, person(SENDER), message_id)
        assert report["total"] == report["pending"] + report["delivered"] == len(RECIPIENTS)
        return bool(report["delivered"] == delivered)

    await eventually(settled, 20)


async def recipients(server: ServerProcess, message_id: str) -> list[Frame]:
    """全部的页。"""
    rows: list[Frame] = []
    query: dict[str, str | int] = {"limit": PAGE}
    async with api_of(server.base_url, person(SENDER)) as api:
        while True:
            page = (await api.get(f"/messages/{message_id}/delivery", params=query)).json()
            rows += page["recipients"]
            if page["next_cursor"] is None:
                return rows
            query["cursor"] = page["next_cursor"]


async def waiting(server: ServerProcess) -> list[int]:
    """每个收件人的信箱里有几条。"""
    url = f"unix://{server.directory}/data/redis/redis.sock"
    redis, keys = LeanConnection(RedisAddress.parse(url), name="test"), Keys()
    await redis.connect()
    try:
        return await redis.execute_many([("ZCARD", keys.mailbox(n)) for n in RECIPIENTS])
    finally:
        await redis.close()


async def test_dlv_1_ten_thousand_recipients_one_percent_online_are_counted_right(
    server: ServerProcess,
) -> None:
    async with crowd((server, person(n)) for n in ONLINE) as online:
        message_id = await send_to_all(server)
        await receive_and_ack(online, message_id)
        await counts_are(server, message_id, len(ONLINE))
    in_mailboxes = [0] * len(ONLINE) + [1] * (len(RECIPIENTS) - len(ONLINE))
    await eventually(lambda: is_now(server, in_mailboxes), 20)

    async with crowd((server, person(n)) for n in LATER) as back:
        assert {one.welcome["pending"] for one in back} == {1}
        await receive_and_ack(back, message_id)
        await counts_are(server, message_id, len(ONLINE) + len(LATER))
    rows = await recipients(server, message_id)
    assert [row["user_id"] for row in rows] == list(RECIPIENTS)
    delivered = [row["user_id"] for row in rows if row["status"] == "delivered"]
    assert delivered == [*ONLINE, *LATER]


async def is_now(server: ServerProcess, in_mailboxes: list[int]) -> bool:
    return await waiting(server) == in_mailboxes
