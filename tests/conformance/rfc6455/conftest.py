"""三个真实的进程，一套系统：两种 edge 各一个，一个网关角色；整个目录只起一次。"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import jwt
import pytest

from tests.support.meetings import hold
from tests.support.people import Person, register
from tests.support.redis_server import RedisServer
from tests.support.server_process import TEST_JWT_SECRET, ServerProcess

from .doors import Door

#: 一个地址、一个人在这里连上几百次。
ROOMY: Final = {
    "handshakes_per_address_per_s": 10_000,
    "handshakes_per_address_burst": 100_000,
    "handshakes_per_user_per_s": 10_000,
    "handshakes_per_user_burst": 100_000,
    "handshake_timeout_s": 2,
    "meeting_max_frame_bytes": 64 * 1024,  # 同用户连接的
    "meeting_bytes_per_s": 100_000_000,
    "meeting_frames_per_s": 10_000,
}
DOORS: Final = ("native", "asgi", "gateway", "meeting")


@pytest.fixture(scope="package")
def doors(
    embedded_redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Door]]:
    directory = tmp_path_factory.mktemp("rfc6455")
    with contextlib.ExitStack() as stack:

        def serve(name: str, role: str = "all", edge: str = "native") -> ServerProcess:
            process = _process(directory, name, embedded_redis_server, role=role, edge=edge)
            return stack.enter_context(process)

        both = serve("native")
        ports = {"native": both.port, "meeting": both.port}
        ports["asgi"] = serve("asgi", edge="asgi").port
        ports["gateway"] = serve("gateway", role="gateway").port
        alice = asyncio.run(register(both.base_url, "alice"))
        paths = dict.fromkeys(DOORS, f"/ws/user/{alice.user_id}/messages")
        paths["meeting"] = f"/ws/meeting/{asyncio.run(hold(both, alice))}"
        token = _token(alice)
        yield {name: Door(name, ports[name], paths[name], token) for name in DOORS}


def _process(
    directory: Path, name: str, redis: RedisServer, *, role: str, edge: str
) -> ServerProcess:
    (directory / name).mkdir()
    settings = {**ROOMY, "edge": edge, "key_prefix": "rfc6455:"}
    database = f"sqlite+aiosqlite:///{directory / 'rfc6455.db'}"
    return ServerProcess(
        directory / name,
        redis_url=redis.url,
        database_url=database,
        role=role,
        settings=settings,
    )


def _token(person: Person) -> str:
    """活得比这些测试长的。"""
    claims = {"sub": str(person.user_id), "role": "user", "aud": "meeting-push"}
    now = time.time()
    return jwt.encode({**claims, "iat": now, "exp": now + 86_400}, TEST_JWT_SECRET, "HS256")


@pytest.fixture(params=DOORS)
def door(request: pytest.FixtureRequest, doors: dict[str, Door]) -> Door:
    return doors[request.param]
