"""CORS：谁读得到，预检，与内嵌时：只管我们的路由。"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import httpx
import pytest
from fastapi import FastAPI

from meeting_push import MeetingPush, load_settings
from meeting_push.http.cors import Cors
from meeting_push.http.refusals import TOO_MANY_HERE
from tests.support.embedded import hosted
from tests.support.redis_server import RedisServer

OURS: Final = "https://app.example"
PREFLIGHT: Final = {
    "origin": OURS,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,idempotency-key",
}
GRANTED: Final = "access-control-allow-origin"


def allowed(given: str, *origins: str) -> bool:
    headers = dict(Cors(origins).headers([(b"origin", given.encode())]))
    assert headers == {} or headers[b"vary"] == b"Origin"
    return headers.get(GRANTED.encode()) == given.encode()


@pytest.mark.parametrize("listed", [OURS, f"{OURS}/", "HTTPS://App.Example", f"{OURS}:443"])
def test_an_entry_is_read_as_browsers_say_it(listed: str) -> None:
    assert allowed(OURS, listed)


@pytest.mark.parametrize(
    "foreign",
    [
        "null",
        "*",
        "",
        "http://app.example",
        f"{OURS}:8443",
        f"{OURS}.evil.test",
        "https://pp.example",
    ],
)
def test_nobody_else_is_allowed(foreign: str) -> None:
    assert not allowed(foreign, OURS)


def test_two_origins_are_nobodys() -> None:
    twice = [(b"origin", OURS.encode())] * 2
    assert Cors([OURS]).headers(twice) == ((b"vary", b"Origin"),)


def test_without_a_list_nothing_is_said() -> None:
    assert not allowed(OURS)
    assert Cors().headers([(b"origin", OURS.encode())]) == ()


def test_f5_a_refusal_at_the_door_is_readable_too() -> None:
    more = Cors([OURS]).headers([(b"origin", OURS.encode())])
    answer = TOO_MANY_HERE.answer("r-1", more)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert f"\r\n{GRANTED}: {OURS}\r\n".encode() in head
    assert b"Retry-After" in head
    assert body == TOO_MANY_HERE.body


# ── 内嵌 ────────────────────────────────────────────────────────────────────


@pytest.fixture(params=["", "/push"])
async def host(
    request: pytest.FixtureRequest, tmp_path: Path, redis7_server: RedisServer, key_prefix: str
) -> AsyncIterator[tuple[httpx.AsyncClient, str]]:
    settings = load_settings(
        data_dir=tmp_path,
        redis_url=redis7_server.url,
        key_prefix=key_prefix,
        allowed_origins=[OURS],
    )
    push = MeetingPush(settings, identity="accounts")
    app = FastAPI(lifespan=push.lifespan)

    @app.post("/shop")
    async def shop() -> str:
        return "open"

    if request.param:
        inner = FastAPI()
        inner.include_router(push.router)
        inner.include_router(push.pages)
        app.mount(request.param, inner)
    async with (
        hosted(push, app) as address,
        httpx.AsyncClient(base_url=f"http://{address}", trust_env=False) as client,
    ):
        yield client, request.param


async def test_f5_embedded_only_our_routes_speak_cors(
    host: tuple[httpx.AsyncClient, str],
) -> None:
    client, prefix = host
    theirs = await client.options("/shop", headers=PREFLIGHT)
    answer = await client.post("/shop", headers=PREFLIGHT)
    assert (theirs.status_code, GRANTED in theirs.headers) == (405, False)
    assert (answer.status_code, GRANTED in answer.headers) == (200, False)
    for path in ("/messages", "/messages/batch", f"/messages/{'0' * 26}", "/auth/login"):
        ours = await client.options(f"{prefix}/api/v1{path}", headers=PREFLIGHT)
        assert (ours.status_code, ours.content) == (204, b""), path
        assert ours.headers.get_list(GRANTED) == [OURS]


async def test_f5_an_error_is_readable_from_another_origin(
    host: tuple[httpx.AsyncClient, str],
) -> None:
    client, prefix = host
    answers = [
        await client.get(f"{prefix}/api/v1/messages", headers={"origin": OURS}),
        await client.get(f"{prefix}/api/v1/messages/batch", headers={"origin": OURS}),
        await client.post(f"{prefix}/api/v1/auth/login", headers={"origin": OURS}, json={}),
        await client.get(f"{prefix}/static/nothing.js", headers={"origin": OURS}),
        await client.get(f"{prefix}/static/push-client.js", headers={"origin": OURS}),
    ]
    assert [each.status_code for each in answers] == [401, 405, 422, 404, 200]
    for each in answers:
        assert each.headers.get_list(GRANTED) == [OURS]
        assert "Origin" in each.headers.get_list("vary")
        assert "Retry-After" in each.headers["access-control-expose-headers"]
        assert "access-control-allow-credentials" not in each.headers


async def test_f5_a_foreign_origin_gets_no_cors_header(
    host: tuple[httpx.AsyncClient, str],
) -> None:
    client, prefix = host
    foreign = {**PREFLIGHT, "origin": "https://evil.example"}
    answers = [
        await client.options(f"{prefix}/api/v1/messages", headers=foreign),
        await client.get(f"{prefix}/api/v1/messages", headers=foreign),
        await client.get(f"{prefix}/static/push-client.js", headers=foreign),
    ]
    assert [each.status_code for each in answers] == [405, 401, 200]
    for each in answers:
        assert not [name for name in each.headers if name.startswith("access-control")]
        assert "Origin" in each.headers.get_list("vary")
