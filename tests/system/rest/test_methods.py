"""C4、A17：方法、路径与头。"""

from __future__ import annotations

import httpx
import pytest

from tests.support.people import Person, api_of
from tests.support.server_process import ServerProcess

GETS = ["/healthz", "/readyz", "/metrics", "/inbox", "/ops", "/openapi.json", "/docs"]
LISTS = ["/messages", "/meetings", "/presence/online", "/queues", "/queues/dead-letter", "/stats"]
ALLOWED = {
    "/messages": "GET, HEAD, POST",
    "/messages/batch": "POST",
    "/messages/broadcast": "POST",
    "/messages/read": "POST",
    f"/messages/{'0' * 26}": "DELETE, GET, HEAD",
    "/meetings": "GET, HEAD, POST",
    "/users/1/offline-messages": "DELETE, GET, HEAD",
    "/auth/login": "POST",
}


async def ask(server: ServerProcess, method: str, path: str) -> httpx.Response:
    async with httpx.AsyncClient(base_url=server.base_url, trust_env=False) as client:
        return await client.request(method, path)


@pytest.mark.parametrize("path", GETS)
async def test_c4_head_answers_as_get_does(server: ServerProcess, path: str) -> None:
    """C4: probes and proxies ask with HEAD."""
    get, head = await ask(server, "GET", path), await ask(server, "HEAD", path)
    assert (head.status_code, head.content) == (get.status_code, b"")
    assert head.headers["content-type"] == get.headers["content-type"]


@pytest.mark.parametrize("path", LISTS)
async def test_c4_head_answers_on_lists(server: ServerProcess, admin: Person, path: str) -> None:
    """C4: with a token; the connection is still good afterwards."""
    async with api_of(server.base_url, admin) as api:
        head = await api.head(path)
        get = await api.get(path)
    assert (head.status_code, head.content, get.status_code) == (200, b"", 200)


@pytest.mark.parametrize("path", ALLOWED)
@pytest.mark.parametrize("method", ["PUT", "PATCH", "OPTIONS", "TRACE", "PROPFIND"])
async def test_c4_allow_names_all_methods_of_a_path(
    server: ServerProcess, path: str, method: str
) -> None:
    """C4: not those of one of its routes."""
    answer = await ask(server, method, f"/api/v1{path}")
    assert (answer.status_code, answer.headers["allow"]) == (405, ALLOWED[path])
    assert answer.json()["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize("path", ["/messages/batch", "/messages/broadcast", "/messages/read"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
async def test_c4_a_literal_path_is_no_message_id(
    server: ServerProcess, alice: Person, path: str, method: str
) -> None:
    """C4: 0.1 said 422: "batch" is no id."""
    async with api_of(server.base_url, alice) as api:
        answer = await api.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("path", ["/api/v1/messages/", "/healthz/", "/inbox/", "/ops/", "/docs/"])
@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1"])
async def test_a17_a_trailing_slash_leads_nowhere(
    server: ServerProcess, path: str, host: str
) -> None:
    """A17: 0.1 answered 307 to ``http://<Host>``."""
    async with httpx.AsyncClient(base_url=server.base_url, trust_env=False) as client:
        answer = await client.get(path, headers={"host": host})
    assert (answer.status_code, answer.headers.get("location")) == (404, None)


async def test_a17_private_json_is_not_stored(server: ServerProcess, alice: Person) -> None:
    """A17: neither messages nor tokens, nor refusals."""
    async with api_of(server.base_url, alice) as api:
        answers = [
            await api.get("/messages"),
            await api.get("/messages/x"),
            await api.post("/auth/ws-ticket"),
            await api.post("/auth/login", json={"username": "alice", "password": "wrong one"}),
            await api.get("/messages", headers={"authorization": "Bearer x"}),
        ]
    assert [a.headers["cache-control"] for a in answers] == ["no-store"] * len(answers)


@pytest.mark.parametrize("path", ["/docs", "/inbox", "/ops"])
async def test_a17_no_page_can_be_framed(server: ServerProcess, path: str) -> None:
    """A17: by old browsers and new."""
    headers = (await ask(server, "GET", path)).headers
    assert headers["x-frame-options"] == "DENY"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
