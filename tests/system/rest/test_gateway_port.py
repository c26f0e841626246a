"""C4、C10：网关自己的端口上，探针与错误同 REST 一样。"""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx
import pytest

from meeting_push.app import MeetingPush
from meeting_push.settings import load_settings
from tests.support.redis_server import RedisServer
from tests.support.server_process import ServerProcess

PROBES = {"/healthz", "/readyz", "/metrics"}


@pytest.fixture(scope="module")
def gateway(
    redis7_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("gateway-port")
    prefix = {"key_prefix": f"{folder.name}:"}
    with ServerProcess(
        folder, role="gateway", redis_url=redis7_server.url, settings=prefix
    ) as process:
        yield process


def ask(gateway: ServerProcess, method: str, path: str) -> httpx.Response:
    return httpx.request(method, f"{gateway.base_url}{path}", trust_env=False)


@pytest.mark.parametrize("path", sorted(PROBES))
def test_c4_head_answers_as_get_does_at_the_gateway(gateway: ServerProcess, path: str) -> None:
    """C4"""
    get, head = ask(gateway, "GET", path), ask(gateway, "HEAD", path)
    assert (head.status_code, head.content) == (get.status_code, b"")
    assert head.headers["content-type"] == get.headers["content-type"]
    assert head.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("POST", "/healthz", 405, "method_not_allowed"),
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/healthz/", 404, "not_found"),
    ],
)
def test_c10_the_gateways_errors_are_the_contracts(
    gateway: ServerProcess, method: str, path: str, status: int, code: str
) -> None:
    """C10, C4: the body, and Allow."""
    answer = ask(gateway, method, path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert answer.headers.get("allow") == ("GET, HEAD" if status == 405 else None)


def test_the_gateway_serves_neither_the_api_nor_the_pages(gateway: ServerProcess) -> None:
    """Whatever an ``api`` node serves beside its probes is nowhere here: /ops, alerts, all."""
    push = MeetingPush(load_settings(redis_url="redis://127.0.0.1:1", role="api"))
    routes = [*push.router.routes, *push.pages.routes]
    paths = {str(getattr(route, "path", "")) for route in routes}
    with httpx.Client(base_url=gateway.base_url, trust_env=False) as client:
        answers = {path: client.get(re.sub(r"{.*?}", "1", path)).status_code for path in paths}
    assert {path: status for path, status in answers.items() if status != 404} == {}
    assert {"/ops", "/api/v1/alerts", "/static/{name:path}"} <= answers.keys()
