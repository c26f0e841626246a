"""F5：别的来源上的页面，在真实的浏览器里：取来客户端、登录、连上、发送；名单之外的什么也读不到。"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final
from uuid import uuid4

import pytest

from tests.support.people import PASSWORD, register
from tests.support.ports import free_port
from tests.support.raw_http import answer_of
from tests.support.server_process import ServerProcess
from tests.system.web.browser import Browser, Page

pytestmark = pytest.mark.timeout(120)

PAGE: Final = b"<!doctype html><title>elsewhere</title>"
_HEAD: Final = b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\nconnection: close\r\n"


@pytest.fixture(scope="module")
def listed() -> str:
    return f"http://127.0.0.1:{free_port()}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, listed: str) -> Iterator[ServerProcess]:
    settings = {"allowed_origins": json.dumps([listed]), "max_http_connections_per_address": 40}
    with ServerProcess(tmp_path_factory.mktemp("server"), settings=settings) as process:
        yield process


async def _serve(origin: str) -> asyncio.Server:
    async def page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(_HEAD + b"content-length: %d\r\n\r\n" % len(PAGE) + PAGE)
        await writer.drain()
        writer.close()

    return await asyncio.start_server(page, "127.0.0.1", int(origin.rpartition(":")[2]))


@pytest.fixture
async def elsewhere(browser: Browser, listed: str) -> AsyncIterator[Page]:
    async with await _serve(listed):
        page = await browser.page()
        await page.open(f"{listed}/")
        yield page


def call(server: ServerProcess, path: str, body: object = None, **headers: str) -> str:
    """一个 ``fetch`` 的表达式，值是 ``[状态, 正文, Retry-After, X-Request-ID]``。"""
    sent = {"content-type": "application/json", **headers}
    options: dict[str, Any] = {"headers": sent}
    if body is not None:
        options |= {"method": "POST", "body": json.dumps(body)}
    return (
        f"fetch({json.dumps(server.base_url + path)}, {json.dumps(options)})"
        ".then(async (r) => [r.status, await r.json(), r.headers.get('Retry-After'),"
        " r.headers.get('X-Request-ID')])"
    )


async def test_f5_a_page_on_another_origin_logs_in_connects_and_sends(
    server: ServerProcess, elsewhere: Page
) -> None:
    name = f"user-{uuid4().hex[:12]}"
    user = await register(server.base_url, name)
    login = {"username": name, "password": PASSWORD}
    status, body, *_ = await elsewhere.evaluate(call(server, "/api/v1/auth/login", login))
    assert (status, body["user_id"]) == (200, user.user_id)
    await elsewhere.evaluate(
        f"""import({json.dumps(server.base_url + "/static/push-client.js")}).then((module) => {{
          window.got = [];
          window.client = new module.PushClient({{
            url: {json.dumps(server.base_url)},
            userId: {user.user_id},
            getToken: async () => {json.dumps(body["access_token"])},
            onMessages: (messages) => window.got.push(...messages.map((one) => one.title)),
          }});
          window.client.start();
        }})"""
    )
    await elsewhere.wait_for("window.client.state.name === 'live'")
    message = {"recipient_ids": [user.user_id], "title": "across", "content": ""}
    headers = {"authorization": f"Bearer {body['access_token']}", "idempotency-key": "once"}
    status, *_ = await elsewhere.evaluate(call(server, "/api/v1/messages", message, **headers))
    assert status == 202
    await elsewhere.wait_for("window.got.includes('across')")


async def test_f5_the_page_can_read_a_refusal_and_its_request_id(
    server: ServerProcess, elsewhere: Page
) -> None:
    asked = call(server, "/api/v1/messages", authorization="Bearer x", **{"x-request-id": "r-1"})
    status, body, _, request_id = await elsewhere.evaluate(asked)
    assert (status, body["error"]["code"], request_id) == (401, "invalid_token", "r-1")


async def test_f5_a_page_that_is_not_listed_reads_nothing(
    server: ServerProcess, browser: Browser
) -> None:
    origin = f"http://127.0.0.1:{free_port()}"
    async with await _serve(origin):
        page = await browser.page()
        await page.open(f"{origin}/")
        blocked = f"{call(server, '/api/v1/auth/login', {})}.catch((error) => error.name)"
        assert await page.evaluate(blocked) == "TypeError"
        module = json.dumps(server.base_url + "/static/push-client.js")
        assert await page.evaluate(f"import({module}).catch((error) => error.name)") == "TypeError"


async def test_f5_what_the_door_itself_refuses_is_readable_too(
    server: ServerProcess, listed: str
) -> None:
    """登记满了的地址：不到任何路由，429 也带着 CORS 与 Retry-After。"""
    lines = ("GET /healthz HTTP/1.1", "Host: x", f"Origin: {listed}")
    held = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(60)]
    try:
        for _, writer in held:
            writer.write("\r\n".join([*lines, "", ""]).encode())
        heads = [await answer_of(reader) for reader, _ in held]
    finally:
        for _, writer in held:
            writer.close()
    refused = [head for head in heads if head.startswith("HTTP/1.1 429")]
    assert refused
    for head in heads:
        assert f"access-control-allow-origin: {listed}" in head
    assert all("retry-after: 1" in head for head in refused)
