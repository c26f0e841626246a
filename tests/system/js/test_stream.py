"""走不通 WebSocket 时：SSE 与 REST 的确认，对着真实的服务器；nginx 挡着升级，路换来换去。"""

from __future__ import annotations

import grp
import json
import pwd
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlencode
from uuid import uuid4

import pytest

from tests.support.accounts import sign
from tests.support.child import Child
from tests.support.eventually import eventually, wait_until
from tests.support.people import Person, api_of, delivery, register, send
from tests.support.ports import free_port
from tests.support.server_process import ServerProcess, answers
from tests.system.web.browser import Browser
from tests.system.web.steps import LIVE, wait_for_badge

from .agent import Agent, connected, listen, received, wait_for

pytestmark = pytest.mark.timeout(300)

MESSAGES: Final = 1_000
A_REQUEST: Final = 100
WITHIN_MS: Final = 10_000
DEFAULTS: Final = {"backoffBaseMs": 1_000, "backoffCapMs": 30_000}
NGINX: Final = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin")
#: 文件在，升级就被挡住；重新载入时断掉已有的。
CONFIGURATION: Final = """
user {user} {group};
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
worker_processes 1;
worker_shutdown_timeout 100ms;
events {{ worker_connections 200; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://127.0.0.1:{server};
      proxy_set_header Host $http_host;
      proxy_http_version 1.1;
      proxy_read_timeout 60s;
    }}
    location /ws/ {{
      if (-f {folder}/blocked) {{ return 403; }}
      proxy_pass http://127.0.0.1:{server};
      proxy_set_header Host $http_host;
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection upgrade;
    }}
  }}
}}
"""


class Blocking:
    """nginx，缺省的缓冲；``block`` 之后升级都是 403，已有的也断掉。"""

    def __init__(self, folder: Path, server: ServerProcess) -> None:
        assert NGINX is not None
        port = free_port()
        self._folder, self.url = folder, f"http://127.0.0.1:{port}"
        file = folder / "nginx.conf"
        own = folder.stat()
        user = pwd.getpwuid(own.st_uid).pw_name  # 工作进程要看得见这个目录
        group = grp.getgrgid(own.st_gid).gr_name
        text = CONFIGURATION.format(
            folder=folder, port=port, server=server.port, user=user, group=group
        )
        file.write_text(text)
        self._child = Child([NGINX, "-p", str(folder), "-c", str(file)], folder / "nginx.log")
        wait_until(lambda: answers(self.url), 20)

    def block(self, blocked: bool) -> None:
        marker = self._folder / "blocked"
        marker.touch() if blocked else marker.unlink()
        self._child.send(signal.SIGHUP)

    def stop(self) -> None:
        self._child.stop()


@contextmanager
def blocking(folder: Path, server: ServerProcess) -> Iterator[Blocking]:
    proxy = Blocking(folder, server)
    try:
        yield proxy
    finally:
        proxy.stop()


@pytest.fixture
async def person(server: ServerProcess) -> Person:
    return await register(server.base_url, f"user-{uuid4().hex[:12]}")


async def test_a_stream_pushes_and_its_acks_count(
    agent: Agent, server: ServerProcess, person: Person
) -> None:
    await listen(agent, person, transport="sse")
    await connected(agent)
    assert await agent.evaluate("client.state.transport") == "sse"
    message = await send(server.base_url, person, [person])
    await received(agent, message)

    async def delivered() -> bool:
        state = await delivery(server.base_url, person, message)
        return bool(state["recipients"][0]["status"] == "delivered")

    await eventually(delivered, 60)


async def test_a_stream_goes_on_where_it_was_over_a_restart(
    agent: Agent, server: ServerProcess, person: Person
) -> None:
    await listen(agent, person, transport="sse")
    await connected(agent)
    first = await send(server.base_url, person, [person])
    await received(agent, first)
    server.terminate()
    await wait_for(agent, "states.some((state) => state.name === 'disconnected')")
    server.start()
    second = await send(server.base_url, person, [person])
    await received(agent, first, second)


@pytest.mark.parametrize(
    ("token", "code"), [("no.such.token", 4500), ("another", 4501)], ids=["wrong", "another"]
)
async def test_a_refused_stream_is_the_end(
    agent: Agent, server: ServerProcess, person: Person, token: str, code: int
) -> None:
    given = token if token != "another" else sign(999_999_999)
    await listen(agent, person, json.dumps(given), transport="sse")
    await wait_for(agent, "client.state.final && client.state.code !== null")
    assert await agent.evaluate("client.state.code") == code


async def test_a_stream_with_an_expired_token_asks_for_another(
    agent: Agent, server: ServerProcess, person: Person
) -> None:
    expired = json.dumps(sign(person.user_id, life_s=-60))
    token = f"({{ fresh }}) => fresh ? {json.dumps(person.token)} : {expired}"
    await listen(agent, person, token, transport="sse")
    await connected(agent)
    assert await agent.evaluate("states.find(({ code }) => code)?.code") == 4004


async def test_a_kicked_stream_stays_away(
    agent: Agent, server: ServerProcess, person: Person
) -> None:
    await listen(agent, person, transport="sse")
    await connected(agent)
    async with api_of(server.base_url, person) as api:

        async def there() -> list[dict[str, str]]:
            answer = await api.get(f"/presence/users/{person.user_id}")
            return list(answer.json()["connections"])

        (connection,) = await eventually(there, 60)
        await api.delete(
            f"/presence/users/{person.user_id}/connections/{connection['connection_id']}"
        )
    await wait_for(agent, "client.state.final")
    assert await agent.evaluate("client.state.code") == 4503


async def send_many(server: ServerProcess, person: Person, count: int) -> list[str]:
    one = {"recipient_ids": [person.user_id], "title": "t", "content": "c"}
    async with api_of(server.base_url, person) as api:
        answer = await api.post("/messages/batch", json={"messages": [one] * count})
    assert answer.status_code == 202, answer.text
    return [result["message_id"] for result in answer.json()["results"]]


@pytest.mark.skipif(NGINX is None, reason="no nginx on PATH")
async def test_with_websocket_blocked_it_goes_on_by_sse_and_loses_nothing_back_and_forth(
    agent: Agent, server: ServerProcess, person: Person, tmp_path: Path
) -> None:
    """1,000 条，路换了十次；每条正好一次。"""
    with blocking(tmp_path, server) as proxy:
        proxy.block(True)
        await listen(agent, person, url=proxy.url, websocketRetryMs=500, stableAfterMs=1)
        await wait_for(agent, "client.state.transport === 'sse'", 60)
        expected: list[str] = []
        for part in range(MESSAGES // A_REQUEST):
            expected += await send_many(server, person, A_REQUEST)
            proxy.block(part % 2 == 1)
            way = "sse" if part % 2 else "websocket"
            await wait_for(agent, f"client.state.transport === '{way}'", 60)
        await received(agent, *expected)


@pytest.mark.skipif(NGINX is None, reason="no nginx on PATH")
async def test_with_websocket_blocked_it_is_on_sse_within_ten_seconds(
    agent: Agent, server: ServerProcess, person: Person, tmp_path: Path
) -> None:
    """缺省的退避，量的是客户端自己要等的：从头挡着的至多一秒；连着（算久的）被挡的，至多一秒加两秒。"""

    async def by_sse() -> list[int]:
        await wait_for(agent, "client.state.transport === 'sse'", 60)
        return list(await agent.evaluate("waits"))

    with blocking(tmp_path, server) as proxy:
        proxy.block(True)
        waiting: dict[str, object] = {**DEFAULTS, "websocketRetryMs": 500, "stableAfterMs": 1}
        await listen(agent, person, None, url=proxy.url, **waiting)
        first, second, *_ = await by_sse()
        assert first <= 1_000
        assert second <= 0
        proxy.block(False)
        await wait_for(agent, "client.state.transport === 'websocket'", 60)
        await agent.evaluate("waits.length = 0")
        proxy.block(True)
        waits = await by_sse()
        assert sum(waits) <= WITHIN_MS, waits
        await received(agent, await send(server.base_url, person, [person]))


@pytest.mark.skipif(NGINX is None, reason="no nginx on PATH")
async def test_the_inbox_page_goes_on_by_sse(
    browser: Browser, server: ServerProcess, person: Person, tmp_path: Path
) -> None:
    with blocking(tmp_path, server) as proxy:
        proxy.block(True)
        page = await browser.page()
        fragment = urlencode({"token": person.token, "user": person.user_id})
        await page.open(f"{proxy.url}/inbox#{fragment}")
        await page.wait_for(LIVE, 60)
        async with api_of(server.base_url, person) as api:

            async def by_stream() -> bool:
                answer = await api.get(f"/presence/users/{person.user_id}")
                return [one["transport"] for one in answer.json()["connections"]] == ["sse"]

            await eventually(by_stream, 60)
        for number in range(3):
            await send(server.base_url, person, [person], title=f"by another way {number}")
        rows = "document.querySelectorAll('#messages > li').length"
        await page.wait_for(f"{rows} === 3", 60)
        await wait_for_badge(page, 3)
        await page.click("#messages > li button")
        await wait_for_badge(page, 2)
        assert [one for one in page.problems if "security" in one] == []
