"""决定 0014：发得比投得快的，他的 POST 等一等；别人的 POST 不等，也不排在他等着的那些后面。"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from meeting_push.accept import outbox_relay
from meeting_push.app import create_app
from meeting_push.auth.access_tokens import AccessTokens
from meeting_push.router import turns
from tests.support.eventually import eventually
from tests.support.redis_server import RedisServer
from tests.support.running_node import Node, running_node
from tests.support.server_process import TEST_JWT_SECRET
from tests.unit.accept.test_catching_up import Gate

pytestmark = pytest.mark.timeout(240)

ALICE, BOB, READER = 1, 2, 3
#: 他占得满全部位子。
FLOOD: Final = turns.AT_ONCE + 8


@pytest.fixture
async def node(
    tmp_path: Path,
    embedded_redis_server: RedisServer,
    key_prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Node]:
    """一批一条，等着多于一条就是太快；没有等到赶上就不走，位子不让就一直占着。"""
    for name, value in (("FAST_MESSAGES", 1), ("AHEAD_MESSAGES", 1)):
        monkeypatch.setattr(outbox_relay, name, value)
    for name in ("CATCH_UP_S", "SLOW_S"):
        monkeypatch.setattr(outbox_relay, name, 200)
    monkeypatch.setattr(turns, "YIELD_S", 200)
    async with running_node(tmp_path, embedded_redis_server.url, key_prefix) as running:
        yield running


@pytest.fixture
async def api(node: Node) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=create_app(node.push))
    async with httpx.AsyncClient(transport=transport, base_url="http://node/api/v1") as one:
        yield one


async def test_a_flood_that_waits_for_its_delivery_keeps_no_other_sender(
    node: Node, api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = AccessTokens(node.push.settings.auth, TEST_JWT_SECRET)

    async def post(user_id: int, **fields: Any) -> int:
        token = tokens.issue(user_id, "user", f"user-{user_id}", 600)
        draft = {"recipient_ids": [READER], "title": "t", "content": "c", **fields}
        headers = {"authorization": f"Bearer {token}"}
        return (await api.post("/messages", json=draft, headers=headers)).status_code

    gate = Gate(node.push._rooms.messages.relay, monkeypatch)
    for _ in range(3):  # 一条在投递，两条在等
        assert await post(ALICE) == 202
        await gate.reached.wait()
    flood = [asyncio.create_task(post(ALICE)) for _ in range(FLOOD)]
    async with asyncio.timeout(60):
        assert await post(BOB) == 202
        assert await post(ALICE, priority=9) == 202
    assert not any(one.done() for one in flood)
    gate.open()
    assert set(await asyncio.gather(*flood)) == {202}

    async def all_there() -> bool:
        held = await node.push.mailbox.message_ids(READER)
        return len(held) == 3 + 2 + FLOOD

    await eventually(all_there)
