"""页面文件怎样交给浏览器：类型、缓存、安全头。"""

from __future__ import annotations

import gzip
import hashlib
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files

import httpx
import pytest
from fastapi import FastAPI

from meeting_push.router import web
from meeting_push.router.error_answers import install_error_handlers
from meeting_push.router.web import add_docs, add_home, web_router

PAGES = ["/inbox", "/ops", "/docs"]
LARGE = "/static/vendor/swagger-ui-bundle.js"


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with browser() as client:
        yield client


@asynccontextmanager
async def browser() -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI(openapi_url=None)
    install_error_handlers(app)
    add_docs(app)
    add_home(app)
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
        ("/docs", "text/html; charset=utf-8"),
        ("/static/vendor/uPlot.esm.js", "text/javascript; charset=utf-8"),
        ("/static/vendor/swagger-ui.css", "text/css; charset=utf-8"),
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
        "docs.html",
        "vendor/README.md",
        "vendor/swagger-ui.css.gz",
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


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_refers_only_to_files_that_exist(http: httpx.AsyncClient, path: str) -> None:
    page = (await http.get(path)).text
    names = {part.split('"')[0] for part in page.split('"static/')[1:]}
    assert names
    for name in names:
        assert (await http.get(f"/static/{name}")).status_code == 200, name


async def test_an_unchanged_file_is_not_sent_again(http: httpx.AsyncClient) -> None:
    first = await http.get("/static/inbox.js")
    again = await http.get("/static/inbox.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("path", PAGES)
async def test_every_use_asks_whether_the_file_changed(http: httpx.AsyncClient, path: str) -> None:
    assert (await http.get(path)).headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("path", PAGES)
async def test_the_page_can_not_be_framed_and_leaks_no_address(
    http: httpx.AsyncClient, path: str
) -> None:
    headers = (await http.get(path)).headers
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


@pytest.mark.parametrize("path", PAGES)
async def test_nothing_in_the_page_is_inline(http: httpx.AsyncClient, path: str) -> None:
    page = (await http.get(path)).text
    assert "<style" not in page
    assert " style=" not in page
    assert page.count("<script") == len(
        re.findall(r'<script [a-z="]*(?: [a-z="]*)? ?src="static/', page)
    )
    assert not any(f" on{event}=" in page for event in ("click", "load", "error", "submit"))


async def test_docs_allow_only_this_origin(http: httpx.AsyncClient) -> None:
    policy = (await http.get("/docs")).headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy
    assert "unsafe" not in policy


# ── 别人写的 ─────────────────────────────────────────────────────────────────


async def test_a_packed_file_goes_out_as_it_is_stored(http: httpx.AsyncClient) -> None:
    answer = await http.get(LARGE, headers={"Accept-Encoding": "gzip"})
    assert (answer.headers["content-encoding"], answer.headers["vary"]) == (
        "gzip",
        "Accept-Encoding",
    )
    assert int(answer.headers["content-length"]) < 600_000 < len(answer.content)


async def test_who_takes_no_gzip_gets_the_same_file_unpacked(http: httpx.AsyncClient) -> None:
    packed = await http.get(LARGE, headers={"Accept-Encoding": "gzip"})
    plain = await http.get(LARGE, headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.content == packed.content
    assert plain.headers["etag"] != packed.headers["etag"]


def test_every_vendored_file_is_the_one_its_readme_names() -> None:
    vendor = files("meeting_push") / "web" / "vendor"
    named = dict(
        re.findall(
            r"^\| `([\w.-]+)` .*`([0-9a-f]{64})` \|$", (vendor / "README.md").read_text(), re.M
        )
    )
    found = {}
    for file in vendor.iterdir():
        if file.name.endswith((".js.gz", ".css.gz", ".css", ".js")):
            content = file.read_bytes()
            packed = file.name.endswith(".gz")
            digest = hashlib.sha256(gzip.decompress(content) if packed else content).hexdigest()
            found[file.name.removesuffix(".gz")] = digest
    assert found == named


def test_every_vendored_work_comes_with_its_licence() -> None:
    vendor = files("meeting_push") / "web" / "vendor"
    works = {file.name.split(".")[0].removesuffix("-bundle") for file in vendor.iterdir()}
    for work in works - {"README"}:
        assert "License" in (vendor / f"{work}.LICENSE.txt").read_text()


async def test_a7_who_asks_for_files_all_the_time_waits_for_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A7: a flood of pages is slowed down, not refused: many may share the address."""
    monkeypatch.setattr(web, "_FILES_BURST", 3)
    monkeypatch.setattr(web, "_FILES_PER_S", 0.001)
    async with browser() as http:
        for _ in range(3):
            assert (await http.get("/ops")).status_code == 200
        began = time.monotonic()
        assert (await http.get("/ops")).status_code == 200
        assert time.monotonic() - began >= web._FILES_DELAY_S / 2
