"""A1：坏的请求体只花一处错的功夫，不管里面有多少处。"""

from __future__ import annotations

import psutil
import pytest

from tests.support.people import Person, api_of
from tests.support.server_process import ServerProcess

#: 1 MB 上下；0.1 的一个请求烧掉 3.6 秒 CPU，内存涨 1.2 GB。
EMPTY_DRAFTS = b'{"messages":[' + b"{}," * 341_000 + b"{}]}"
EMPTY_TEXTS = b'"",' * 340_000 + b'""]}'
NOT_NUMBERS = b"null," * 200_000 + b"null]}"
UNKNOWN = b",".join(b'"k%d":1' % number for number in range(90_000)) + b"}"
GOOD = b'{"recipient_ids":[1],"title":"t","content":"c",'
DRAFT = b'{"recipient_ids":[1],"title":"t","content":""}'
BOMBS = [
    ("/messages/batch", EMPTY_DRAFTS),
    ("/messages/batch", b'{"messages":[' + b"[]," * 340_000 + b"[]]}"),
    ("/messages/batch", b'{"messages":[' + (DRAFT + b",") * 21_000 + DRAFT + b"]}"),
    ("/messages/batch", b'{"messages":[{' + UNKNOWN + b"]}"),
    ("/messages", b'{"title":"t","content":"c","recipient_ids":[' + EMPTY_TEXTS),
    ("/messages", b'{"title":"t","content":"c","recipient_ids":[' + b"0," * 500_000 + b"0]}"),
    ("/messages", b'{"title":"t","content":"c","recipient_ids":[' + b"1," * 500_000 + b"1]}"),
    ("/messages", b'{"title":"t","content":"c","recipient_ids":[' + NOT_NUMBERS),
    ("/messages", GOOD + UNKNOWN),
    ("/messages", GOOD + b'"data":{"a":[' + b"{}," * 340_000 + b"{}]}}"),
    ("/messages", b'{"title":"t","content":"c","recipient_ids":[1.0,' + b"{}," * 340_000 + b"{}]}"),
    ("/messages", GOOD + b'"priority":1.0,' + UNKNOWN),
    ("/messages", GOOD + b'"priority":1.5,"data":{"a":[' + b"{}," * 340_000 + b"{}]}}"),
    ("/messages/batch", b'{"messages":[1.0,' + b"{}," * 340_000 + b"{}]}"),
    ("/messages/batch", b'{"messages":[' + GOOD + b'"priority":1.0},' + b"{}," * 340_000 + b"{}]}"),
    ("/messages/broadcast", b'{"title":"t","content":"c",' + UNKNOWN),
    ("/messages/read", b'{"message_ids":[' + EMPTY_TEXTS),
    ("/messages/read", b'{"message_ids":[' + b'"' + b"0" * 26 + b'",' * 1 + NOT_NUMBERS),
    ("/messages/read", b'{"message_ids":[' + (b'"' + b"0" * 26 + b'",') * 35_000 + b'"x"]}'),
    ("/messages/read", b"{" + UNKNOWN),
    ("/meetings", b'{"title":"t","participant_ids":[' + EMPTY_TEXTS),
    ("/meetings", b"{" + UNKNOWN),
    (f"/meetings/{'0' * 26}/participants", b'{"participant_ids":[' + NOT_NUMBERS),
    ("/queues/dead-letter/requeue", b'{"ids":[' + EMPTY_TEXTS),
    ("/queues/dead-letter/requeue", b"{" + UNKNOWN),
    ("/auth/login", b"{" + UNKNOWN),
    ("/auth/register", b'{"username":[' + NOT_NUMBERS),
    ("/auth/refresh", b"[" * 1_000_000),
]


@pytest.mark.parametrize(("path", "body"), BOMBS, ids=lambda value: str(value)[:48])
async def test_a1_a_bomb_costs_one_error(
    server: ServerProcess, admin: Person, path: str, body: bytes
) -> None:
    """A1: CPU time of the process, not the clock: others may be busy on this machine."""
    process = psutil.Process(server.pid)
    headers = {"content-type": "application/json"}
    async with api_of(server.base_url, admin) as api:
        before, rss = process.cpu_times().user, process.memory_info().rss
        answer = await api.post(path, content=body, headers=headers)
        spent = process.cpu_times().user - before
        grown = process.memory_info().rss - rss
    assert answer.status_code in (400, 413, 422), answer.text[:300]
    assert len(answer.content) < 4096
    assert spent < 0.3
    assert grown < 40 * 1024 * 1024


async def test_a1_only_the_first_error_is_named_and_nothing_is_echoed(
    server: ServerProcess, alice: Person
) -> None:
    """A1: the answer points at the field, never at what stood in it."""
    body = {"recipient_ids": [1, "hunter2" * 10], "title": 5, "content": None}
    async with api_of(server.base_url, alice) as api:
        answer = await api.post("/messages", json=body)
    error = answer.json()["error"]
    assert error["code"] == "invalid_input"
    assert [each["field"] for each in error["details"]] == ["recipient_ids[1]"]
    assert "hunter2" not in answer.text


async def test_a16_a_body_is_not_looked_at_without_a_token(server: ServerProcess) -> None:
    """A16: authentication stands before the body."""
    nobody = Person(0, "", "no-token")
    async with api_of(server.base_url, nobody) as api:
        answer = await api.post("/messages", content=b"not json")
    assert answer.status_code == 401
