"""历史的 REST：只给管理员，不认识的 422，名字与意思从一处来。"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from meeting_push.app import create_app
from meeting_push.auth.access_tokens import AccessTokens
from meeting_push.monitoring.figures import FIGURES
from meeting_push.router.ops import Statistics, StatsOut
from tests.support.redis_server import RedisServer
from tests.support.running_node import Node, running_node
from tests.support.server_process import TEST_JWT_SECRET


@pytest.fixture
async def node(
    tmp_path: Path, embedded_redis_server: RedisServer, key_prefix: str
) -> AsyncIterator[Node]:
    async with running_node(tmp_path, embedded_redis_server.url, key_prefix) as running:
        yield running


@contextlib.asynccontextmanager
async def api_of(node: Node, role: str) -> AsyncIterator[httpx.AsyncClient]:
    token = AccessTokens(node.push.settings.auth, TEST_JWT_SECRET).issue(1, role, "ann", 600)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=create_app(node.push)),
        base_url="http://node/api/v1",
        headers={"authorization": f"Bearer {token}"},
    ) as api:
        yield api


async def test_the_history_is_columns_of_the_same_length(node: Node) -> None:
    async with api_of(node, "admin") as api:
        answer = await api.get("/stats/history", params={"figures": "sockets,push_p95_ms"})
        assert answer.status_code == 200, answer.text
        found = answer.json()
        assert found["step_s"] == 60
        assert found["figures"].keys() == {"sockets", "push_p95_ms"}
        assert {len(column) for column in found["figures"].values()} == {len(found["at"])}


async def test_what_a_figure_means_is_told(node: Node) -> None:
    async with api_of(node, "admin") as api:
        items = (await api.get("/stats/figures")).json()["items"]
    assert [one["name"] for one in items] == list(FIGURES)
    assert all(one["zh"] and one["en"] and one["unit"] for one in items)


@pytest.mark.parametrize(
    "query",
    [{"figures": "nonsense"}, {"since": "2", "until": "1"}, {"since": "-1"}, {"since": "soon"}],
)
async def test_a_bad_question_is_422(node: Node, query: dict[str, str]) -> None:
    async with api_of(node, "admin") as api:
        answer = await api.get("/stats/history", params=query)
    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == "invalid_input"


@pytest.mark.parametrize("path", ["/stats/history", "/stats/figures"])
async def test_only_an_administrator_sees_it(node: Node, path: str) -> None:
    async with api_of(node, "user") as api:
        assert (await api.get(path)).status_code == 403


async def test_the_figures_are_made_anew_only_so_often(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OPS: fifty forgotten tabs get the last answer, a few questions get fresh ones."""
    made = 0
    read = Statistics.read

    async def counting(self: Statistics) -> StatsOut:
        nonlocal made
        made += 1
        return await read(self)

    monkeypatch.setattr(Statistics, "read", counting)
    monkeypatch.setattr("meeting_push.router.ops.now_ms", lambda: 0)  # 时间不走
    async with api_of(node, "admin") as api:
        answers = [await api.get("/stats") for _ in range(30)]
    assert {each.status_code for each in answers} == {200}
    assert made == 20
    assert answers[-1].json() == answers[-2].json()
