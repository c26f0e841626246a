"""页面文件怎样交给浏览器：类型、缓存、安全头。"""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI

from meeting_push.router.contract_route import install_error_handlers
from meeting_push.router.web import web_router


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI()
    install_error_handlers(app)
    app.include_router(web_router())
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://push.test:8000") as client:
        yield client


async def test_the_root_leads_to_the_inbox(http: httpx.AsyncClient) -> None:
    answer = await http.get("/")
    assert (answer.status_code, answer.headers["location"]) == (307, "inbox")


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        ("/inbox", "text/html; charset=utf-8"),
        ("/static/inbox.js", "text/javascript; charset=utf-8"),
        ("/static/theme.css", "text/css; charset=utf-8"),
        ("/static/icon.svg", "image/svg+xml"),
    ],
)
async def test_every_file_says_what_it_is(
    http: httpx.AsyncClient, path: str, media_type: str
) -> None:
    answer = await http.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (200, media_type)


@pytest.mark.parametrize(
    "name",
    [
        "nothing.js",
        "inbox.html",
        "__init__.py",
        "..%2Frouter%2Fweb.py",
        "%2e%2e%2fapp.py",
        "web.py",
    ],
)
async def test_only_the_pages_own_files_are_served(http: httpx.AsyncClient, name: str) -> None:
    answer = await http.get(f"/static/{name}")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"


async def test_the_inbox_refers_only_to_files_that_exist(http: httpx.AsyncClient) -> None:
    page = (await http.get("/inbox")).text
    names = {part.split('"')[0] for part in page.split('"static/')[1:]}
    assert names
    for name in names:
        assert (await http.get(f"/static/{name}")).status_code == 200, name


async def test_an_unchanged_file_is_not_sent_again(http: httpx.AsyncClient) -> None:
    first = await http.get("/static/inbox.js")
    again = await http.get("/static/inbox.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


async def test_every_use_asks_whether_the_file_changed(http: httpx.AsyncClient) -> None:
    assert (await http.get("/inbox")).headers["cache-control"] == "no-cache"


async def test_the_page_can_not_be_framed_and_leaks_no_address(http: httpx.AsyncClient) -> None:
    headers = (await http.get("/inbox")).headers
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-content-type-options"] == "nosniff"


async def test_scripts_styles_and_sockets_come_from_the_same_origin(
    http: httpx.AsyncClient,
) -> None:
    policy = (await http.get("/inbox")).headers["content-security-policy"].split("; ")
    assert "default-src 'self'" in policy
    assert "connect-src 'self' ws://push.test:8000 wss://push.test:8000" in policy
    assert "unsafe" not in " ".join(policy)


@pytest.mark.parametrize("host", ["evil.test; script-src *", "a b", "evil.test\u00e9", "a/b"])
async def test_a_strange_host_header_can_not_widen_the_policy(
    http: httpx.AsyncClient, host: str
) -> None:
    answer = await http.get("/inbox", headers=[(b"Host", host.encode("latin-1"))])
    policy = answer.headers["content-security-policy"].split("; ")
    assert "connect-src 'self'" in policy


async def test_nothing_in_the_page_is_inline(http: httpx.AsyncClient) -> None:
    page = (await http.get("/inbox")).text
    assert "<style" not in page
    assert " style=" not in page
    assert page.count("<script") == page.count('<script type="module" src="static/')
    assert not any(f" on{event}=" in page for event in ("click", "load", "error", "submit"))
