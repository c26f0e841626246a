"""请求的 id：什么样的才认，裸端口上与内嵌时也有，日志的行带着它。"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import httpx
import pytest
from fastapi import FastAPI

from meeting_push import MeetingPush, load_settings
from meeting_push.http.request_ids import chosen
from tests.support.embedded import hosted
from tests.support.raw_http import request_ids
from tests.support.redis_server import RedisServer
from tests.support.running_node import running_node

GIVEN: Final = "01J-proxy.7:a/b"
MADE: Final = r"[0-9a-f]{16}"


@pytest.mark.parametrize("given", ["", "x" * 65, "a b", "a\tb", "<script>", "名字", 'a"b', "a;b"])
def test_only_up_to_64_safe_characters_are_taken(given: str) -> None:
    assert re.fullmatch(MADE, chosen(given))


def test_64_safe_characters_are_taken() -> None:
    assert chosen("x" * 64) == "x" * 64


@pytest.mark.parametrize(
    "line", ["GET /readyz HTTP/1.1", "GET /nowhere HTTP/1.1", "PUT /readyz HTTP/1.1"]
)
async def test_the_bare_port_of_a_gateway_answers_with_it(
    line: str, tmp_path: Path, embedded_redis_server: RedisServer, key_prefix: str
) -> None:
    async with running_node(tmp_path, embedded_redis_server.url, key_prefix) as node:
        assert await request_ids(node.port, line, f"X-Request-ID: {GIVEN}") == [GIVEN]


@pytest.fixture
async def host(
    tmp_path: Path, redis7_server: RedisServer, key_prefix: str
) -> AsyncIterator[httpx.AsyncClient]:
    """内嵌，挂在前缀下。"""
    settings = load_settings(data_dir=tmp_path, redis_url=redis7_server.url, key_prefix=key_prefix)
    push = MeetingPush(settings, identity="accounts")
    app, inner = FastAPI(lifespan=push.lifespan), FastAPI()
    inner.include_router(push.router)
    app.mount("/push", inner)
    async with (
        hosted(push, app) as address,
        httpx.AsyncClient(base_url=f"http://{address}/push", trust_env=False) as client,
    ):
        yield client


async def test_embedded_the_answer_and_the_lines_of_a_request_carry_its_id(
    host: httpx.AsyncClient, log: list[str]
) -> None:
    headers = {"x-request-id": GIVEN, "authorization": "Bearer nonsense"}
    answer = await host.get("/api/v1/messages", headers=headers)
    assert answer.status_code == 401
    assert answer.headers.get_list("x-request-id") == [GIVEN]
    said = {line.split(" ")[0]: line for line in log}
    for event in ("rest_auth_failed", "requests_refused"):
        assert f"'request_id': '{GIVEN}'" in said[event]
