"""别人的客户端对着真的服务器：连上、收到、确认、续传、4004、4500（README.md）。"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any
from uuid import uuid4

import pytest

from tests.support.accounts import sign
from tests.support.eventually import eventually
from tests.support.people import Frame, Person, delivery, register, send
from tests.support.server_process import ServerProcess
from tests.system.js.conftest import browser, chromium, node, origin, tools
from tests.system.web.browser import Browser, Chromium, open_browser

from .pages import socket_on, stream_on, ticket
from .programs import PROGRAMS, Line, running

__all__ = ["browser", "chromium", "node", "origin", "tools"]
pytestmark = pytest.mark.timeout(300)

#: （地址, 令牌）→ 一条连接。
Dial = Callable[[str, str], AbstractAsyncContextManager[Line]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, origin: str) -> Iterator[ServerProcess]:
    settings = {"allowed_origins": f'["{origin}"]'}
    with ServerProcess(tmp_path_factory.mktemp("server"), settings=settings) as process:
        yield process


@pytest.fixture
async def person(server: ServerProcess) -> Person:
    return await register(server.base_url, f"user-{uuid4().hex[:12]}")


@pytest.fixture(params=[*PROGRAMS, "chromium"])
async def dial(request: pytest.FixtureRequest, origin: str) -> AsyncIterator[Dial]:
    if request.param in PROGRAMS:
        command = PROGRAMS[request.param](request)
        yield lambda url, token: running(command, url, token)
        return
    binary: Chromium = request.getfixturevalue("chromium")
    async with open_browser(binary.address) as browser:
        page = await browser.page()
        await page.open(f"{origin}/")
        yield lambda url, token: socket_on(page, url, token)


async def messages_of(line: Line, count: int) -> list[Frame]:
    """读到 ``count`` 条消息为止，不论是单独的还是 ``batch`` 里的。"""
    found: list[Frame] = []
    while len(found) < count:
        frame = await line.next_frame()
        assert frame["type"] != "closed", frame
        found += frame["messages"] if frame["type"] == "batch" else []
        found += [frame] if frame["type"] == "new_message" else []
    return found


async def delivered(server: ServerProcess, person: Person, *messages: str) -> None:
    for message in messages:

        async def settled(message: str = message) -> bool:
            state = await delivery(server.base_url, person, message)
            return bool(state["delivered"] == 1)

        await eventually(settled, 20)


async def test_it_connects_is_pushed_to_acks_and_resumes(
    dial: Dial, server: ServerProcess, person: Person
) -> None:
    first_url = server.ws_url(person.user_id, device_id="foreign")
    async with dial(first_url, person.token) as line:
        welcome = await line.next_frame()
        assert (welcome["type"], welcome["user_id"]) == ("welcome", person.user_id)
        first = await send(server.base_url, person, [person])
        [message] = await messages_of(line, 1)
        assert message["message_id"] == first
        await delivered(server, person, first)
    missed = [await send(server.base_url, person, [person]) for _ in range(2)]
    position: dict[str, Any] = {"epoch": welcome["epoch"], "last_seq": message["seq"]}
    again = server.ws_url(person.user_id, device_id="foreign", **position)
    async with dial(again, person.token) as line:
        assert (await line.next_frame())["resumed"] is True
        got = await messages_of(line, 2)
        assert [one["message_id"] for one in got] == missed
        await delivered(server, person, *missed)


async def test_it_hears_4004_and_4500(dial: Dial, server: ServerProcess, person: Person) -> None:
    url = server.ws_url(person.user_id)
    for token, code in ((sign(person.user_id, life_s=-60), 4004), ("no.such.token", 4500)):
        async with dial(url, token) as line:
            assert await line.next_frame() == {"type": "closed", "code": code}


# ── EventSource ─────────────────────────────────────────────────────────────


@contextlib.asynccontextmanager
async def event_source(
    browser: Browser, server: ServerProcess, origin: str, person: Person, query: str
) -> AsyncIterator[Line]:
    page = await browser.page()
    await page.open(f"{origin}/")
    url = f"{server.base_url}/sse/user/{person.user_id}/messages?{query}"
    acks = f"{server.base_url}/api/v1/acks"
    async with stream_on(page, url, acks, person.token) as line:
        yield line


async def test_an_event_source_with_a_ticket_resumes(
    browser: Browser, server: ServerProcess, origin: str, person: Person
) -> None:
    query = f"ticket={await ticket(server.base_url, person)}"
    async with event_source(browser, server, origin, person, query) as line:
        welcome = await line.next_frame()
        first = await send(server.base_url, person, [person])
        [message] = await messages_of(line, 1)
        assert message["message_id"] == first
        await delivered(server, person, first)
    missed = await send(server.base_url, person, [person])
    position = f"epoch={welcome['epoch']}&last_seq={message['seq']}"
    query = f"ticket={await ticket(server.base_url, person)}&{position}"
    async with event_source(browser, server, origin, person, query) as line:
        assert (await line.next_frame())["resumed"] is True
        [message] = await messages_of(line, 1)
        assert message["message_id"] == missed


@pytest.mark.parametrize("life_s", [-60, None])
async def test_an_event_source_without_a_valid_token_is_refused_and_gives_up(
    browser: Browser, server: ServerProcess, origin: str, person: Person, life_s: int | None
) -> None:
    """401：``EventSource`` 看不见码，也不自己再来。"""
    token = "no.such.token" if life_s is None else sign(person.user_id, life_s=life_s)
    async with event_source(browser, server, origin, person, f"token={token}") as line:
        assert await line.next_frame() == {"type": "refused", "again": False}
