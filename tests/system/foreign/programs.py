"""别人的客户端各是一个程序：怎样造，怎样握着（README.md）。"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final, Protocol

import pytest

HERE: Final = Path(__file__).parent
#: 冷的缓存、慢的机器：从没有到造好。
BUILD_S: Final = 100
PATIENCE_S: Final = 60
Frame = dict[str, Any]


class Line(Protocol):
    """一条连接，在别人的客户端手里。"""

    async def next_frame(self) -> Frame:
        """下一帧；最后是 ``closed``。"""


class Program:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def next_frame(self) -> Frame:
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), PATIENCE_S)
        assert line, "the program ended without a word"
        frame: Frame = json.loads(line)
        return frame

    async def leave(self) -> None:
        """好好地走，等它结束。"""
        assert self._process.stdin is not None
        self._process.stdin.close()
        await asyncio.wait_for(self._process.wait(), PATIENCE_S)


@contextlib.asynccontextmanager
async def running(command: list[str], url: str, token: str) -> AsyncIterator[Program]:
    process = await asyncio.create_subprocess_exec(
        *(*command, url, token),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=2**22,
    )
    program = Program(process)
    try:
        yield program
        await program.leave()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


# ── 造 ──────────────────────────────────────────────────────────────────────


def _tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"no {name} on PATH")
    return found


def _built(request: pytest.FixtureRequest, name: str, build: Callable[[Path], None]) -> Path:
    """造在 pytest 的缓存里，几个 pytest 进程只造一次；联不了网就跳过。"""
    folder = request.config.cache.mkdir(f"foreign-{name}")
    with (folder / ".lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        try:
            build(folder)
        except subprocess.TimeoutExpired:
            pytest.skip(f"{name}: not built in {BUILD_S} s")
        except subprocess.CalledProcessError as error:
            words = error.stderr.decode(errors="replace").strip().splitlines() or [""]
            pytest.skip(f"{name} was not built: {words[-1]}")
    return folder


def _run(command: list[str], folder: Path, **environment: str) -> None:
    known = os.environ | environment
    subprocess.run(command, cwd=folder, env=known, check=True, capture_output=True, timeout=BUILD_S)


def _go(request: pytest.FixtureRequest) -> list[str]:
    go = _tool("go")

    def build(folder: Path) -> None:
        command = [go, "build", "-o", str(folder / "client"), "."]
        _run(command, HERE / "go", GOFLAGS="-mod=readonly")

    return [str(_built(request, "go", build) / "client")]


def _rust(request: pytest.FixtureRequest) -> list[str]:
    cargo = _tool("cargo")

    def build(folder: Path) -> None:
        command = [cargo, "build", "--quiet", "--locked", "--target-dir", str(folder)]
        _run(command, HERE / "rust")

    return [str(_built(request, "rust", build) / "debug" / "foreign")]


def _java(request: pytest.FixtureRequest) -> list[str]:
    javac, java = _tool("javac"), _tool("java")

    def build(folder: Path) -> None:
        _run([javac, "--release", "17", "-d", str(folder), "Client.java"], HERE / "java")

    return [java, "-Xshare:auto", "-cp", str(_built(request, "java", build)), "Client"]


def _node(request: pytest.FixtureRequest) -> list[str]:
    node = request.getfixturevalue("node")
    ws = request.getfixturevalue("tools") / "node_modules" / "ws" / "wrapper.mjs"
    return [node, str(HERE / "node" / "client.mjs"), str(ws)]


def _websocket_client(request: pytest.FixtureRequest) -> list[str]:
    pytest.importorskip("websocket", reason="no websocket-client")
    return [sys.executable, str(HERE / "python" / "websocket_client.py")]


def _websockets(request: pytest.FixtureRequest) -> list[str]:
    return [sys.executable, str(HERE / "python" / "websockets_sync.py")]


#: 名字 → 造好它，给出命令。
PROGRAMS: Final[dict[str, Callable[[pytest.FixtureRequest], list[str]]]] = {
    "node-ws": _node,
    "websocket-client": _websocket_client,
    "websockets": _websockets,
    "go-coder": _go,
    "java": _java,
    "rust-tungstenite": _rust,
}
