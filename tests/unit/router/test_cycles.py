"""A1：一个请求办完就消失，不等垃圾回收：被拒绝的几百 KB 正文会一份份地留着。"""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from fastapi import Request

from meeting_push.app import create_app
from meeting_push.auth.access_tokens import AccessTokens
from meeting_push.router.contract_route import HotDoor
from meeting_push.router.json_body import BoundedBody, HotRequest
from meeting_push.router.turns import Turn
from tests.support.garbage import left_behind
from tests.support.redis_server import RedisServer
from tests.support.running_node import running_node
from tests.support.server_process import TEST_JWT_SECRET

_OURS = (Request, HotRequest, Turn, BoundedBody)
#: 一个人大请求体的流量用完了：读到一半被拒绝。
_TINY_FLOW = {"sends_per_user_per_s": 0.001, "sends_per_user_burst": 100}
_LARGE = b'{"messages":[' + b"{}," * 60_000 + b"{}]}"


@pytest.fixture(params=[lambda app: app, HotDoor], ids=["framework", "hot door"])
async def api(
    request: pytest.FixtureRequest, tmp_path: Path, redis_server: RedisServer, key_prefix: str
) -> AsyncIterator[httpx.AsyncClient]:
    async with running_node(tmp_path, redis_server.url, key_prefix, **_TINY_FLOW) as node:
        token = AccessTokens(node.push.settings.auth, TEST_JWT_SECRET).issue(1, "user", "a", 600)
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app=request.param(create_app(node.push))),
            base_url="http://node/api/v1",
            headers={"authorization": f"Bearer {token}", "content-type": "application/json"},
        ) as client:
            yield client


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        pytest.param("/messages/batch", b'{"messages":[{}]}', 422, id="invalid"),
        pytest.param("/messages/read", b"x" * 100_000, 413, id="declared too large"),
        pytest.param("/messages/batch", _LARGE, 429, id="refused while read"),
    ],
)
async def test_a1_a_refused_request_leaves_no_cycles(
    api: httpx.AsyncClient, path: str, body: bytes, status: int
) -> None:
    assert (await api.post(path, content=body)).status_code == status  # 首次使用才造的不算
    gc.collect()
    gc.disable()
    try:
        await api.post(path, content=body)
        assert left_behind(_OURS) == {}
    finally:
        gc.enable()
