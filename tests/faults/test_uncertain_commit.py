"""E7：PostgreSQL 等一个不存在的备库：提交没有回答，消息却已在库里。"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.support.people import Person, api_of, register
from tests.support.postgres_server import PostgresServer, find_postgres
from tests.support.redis_server import RedisServer
from tests.support.server_process import ServerProcess

Send = Callable[..., Any]


@pytest.fixture
def postgres() -> Iterator[PostgresServer]:
    bin_dir = find_postgres()
    if bin_dir is None:
        pytest.skip("no PostgreSQL server here")
    server = PostgresServer(bin_dir).start()
    yield server
    server.stop()


@pytest.fixture
def database_url(postgres: PostgresServer) -> str:
    """这个库里的提交要等备库。"""
    url = postgres.create_database()
    name = url.partition("?")[0].rpartition("/")[2]
    postgres.execute(f"ALTER DATABASE {name} SET synchronous_commit = on")
    return url


@pytest.fixture
def server(
    tmp_path: Path, private_redis_server: RedisServer, database_url: str
) -> Iterator[ServerProcess]:
    with ServerProcess(
        tmp_path,
        redis_url=private_redis_server.url,
        database_url=database_url,
        settings={"database_timeout_s": 1, "relay_interval_s": 0.2, "relay_grace_s": 0.5},
    ) as process:
        yield process


def standby(postgres: PostgresServer, name: str) -> None:
    postgres.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{name}'")
    postgres.execute("SELECT pg_reload_conf()")


async def post(server: ServerProcess, sender: Person, **headers: str) -> httpx.Response:
    body = {"recipient_ids": [sender.user_id], "title": "t", "content": "c"}
    async with api_of(server.base_url, sender) as api:
        return await api.post("/messages", json=body, headers=headers)


async def test_e7_503_says_that_it_may_be_stored_and_a_key_makes_the_retry_safe(
    server: ServerProcess, postgres: PostgresServer
) -> None:
    ann = await register(server.base_url, f"ann-{uuid4().hex[:8]}")
    key = {"idempotency-key": "once"}
    standby(postgres, "nosuch")
    try:
        without, with_key = await post(server, ann), await post(server, ann, **key)
    finally:
        standby(postgres, "")
    assert (without.status_code, with_key.status_code) == (503, 503)
    codes = [answer.json()["error"]["code"] for answer in (without, with_key)]
    assert codes == ["outcome_unknown"] * 2
    temporary = [answer.json()["error"]["temporary"] for answer in (without, with_key)]
    assert temporary == [False, True]
    again = [await post(server, ann, **key) for _ in range(2)]
    assert [answer.status_code for answer in again] == [202, 202]
    assert len({answer.json()["message_id"] for answer in again}) == 1
    async with api_of(server.base_url, ann) as api:
        inbox = (await api.get("/messages")).json()["items"]
    # 没有键的那一条也存下了：它就是“可能”
    assert len(inbox) == 2
