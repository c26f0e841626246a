"""要检查的 SDK，各自一个进程；``SDK_ADAPTER`` 是别人的（README.md）。"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.system.js.conftest import node, sdk, tools

from .adapter import AdapterProcess, Sdk

__all__ = ["node", "sdk", "tools"]
HERE: Final = Path(__file__).parent
FOREIGN: Final = os.environ.get("SDK_ADAPTER", "")
NAMES: Final = ("python", "javascript", *(["foreign"] if FOREIGN else []))
WAYS: Final = ("websocket", "sse")


def _command(name: str, request: pytest.FixtureRequest) -> list[str]:
    if name == "foreign":
        return shlex.split(FOREIGN)
    if name == "python":
        return [sys.executable, str(HERE / "python_adapter.py")]
    binary, module = request.getfixturevalue("node"), request.getfixturevalue("sdk")
    ws = request.getfixturevalue("tools") / "node_modules" / "ws" / "wrapper.mjs"
    return [binary, str(HERE / "node_adapter.mjs"), str(module), str(ws)]


@pytest.fixture(scope="session")
def adapters(request: pytest.FixtureRequest) -> Iterator[Callable[[str], AdapterProcess]]:
    started: dict[str, AdapterProcess] = {}

    def adapter(name: str) -> AdapterProcess:
        if name not in started:
            started[name] = AdapterProcess(_command(name, request))
        return started[name]

    yield adapter
    for process in started.values():
        process.end()


async def _client(adapter: AdapterProcess, name: str, way: str) -> AsyncIterator[Sdk]:
    client = Sdk(adapter, name, way)
    yield client
    await client.stop()
    client.forget()


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=WAYS)
async def client(
    request: pytest.FixtureRequest, name: str, adapters: Callable[[str], AdapterProcess]
) -> AsyncIterator[Sdk]:
    """每一个 SDK，走每一条路。"""
    async for one in _client(adapters(name), name, request.param):
        yield one


@pytest.fixture
async def socket_client(name: str, adapters: Callable[[str], AdapterProcess]) -> AsyncIterator[Sdk]:
    """只有 WebSocket 上才有的事。"""
    async for one in _client(adapters(name), name, "websocket"):
        yield one


@pytest.fixture
async def auto_client(name: str, adapters: Callable[[str], AdapterProcess]) -> AsyncIterator[Sdk]:
    """自己选路的。"""
    async for one in _client(adapters(name), name, "auto"):
        yield one
