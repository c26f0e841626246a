"""锁住的开发工具（装一次，留在 pytest 的缓存里），Node 里的一个客户端，Chromium 里的一个页面。"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Final

import pytest

from tests.support.server_process import ServerProcess
from tests.system.web.browser import Browser, Chromium, find_chromium, open_browser

from .agent import Agent, NodeAgent, PageAgent, elsewhere

ROOT: Final = Path(__file__).parents[3]
SDK: Final = ROOT / "clients" / "js"
INSTALL_S: Final = 180


@pytest.fixture(scope="session")
def node() -> str:
    found = shutil.which("node")
    if found is None:
        pytest.skip("no node on PATH")
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True)
    if int(version.stdout.removeprefix("v").partition(".")[0]) < 20:
        pytest.skip(f"node {version.stdout.strip()} is older than 20")
    return found


@pytest.fixture(scope="session")
def tools(node: str, request: pytest.FixtureRequest) -> Path:
    """装着 typescript、esbuild、ws 的目录；锁变了就是另一个。"""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("no npm on PATH")
    lock = (SDK / "package-lock.json").read_bytes()
    folder = request.config.cache.mkdir(f"js-tools-{hashlib.sha256(lock).hexdigest()[:12]}")
    with (folder / ".lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)  # 几个 pytest 进程只装一次
        if not (folder / "installed").exists():
            _install(npm, folder)
    return folder


def _install(npm: str, folder: Path) -> None:
    for name in ("package.json", "package-lock.json"):
        shutil.copy(SDK / name, folder / name)
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=INSTALL_S)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"npm could not install the development tools: {type(error).__name__}")
    (folder / "installed").touch()


@pytest.fixture(scope="session")
def sdk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """包里的那一份，Node 认得出是模块。"""
    module = tmp_path_factory.mktemp("sdk") / "meeting-push.mjs"
    module.write_bytes((files("meeting_push") / "web" / "meeting-push.js").read_bytes())
    return module


@pytest.fixture(scope="module")
def origin() -> Iterator[str]:
    with elsewhere() as address:
        yield address


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, origin: str) -> Iterator[ServerProcess]:
    settings = {"allowed_origins": f'["{origin}"]', "heartbeat_interval_s": 2}
    with ServerProcess(tmp_path_factory.mktemp("server"), settings=settings) as process:
        yield process


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    binary = find_chromium()
    if binary is None:
        pytest.skip("no chromium on PATH")
    process = Chromium(binary, tmp_path_factory.mktemp("chromium"))
    yield process
    process.stop()


@pytest.fixture
async def browser(chromium: Chromium) -> AsyncIterator[Browser]:
    async with open_browser(chromium.address) as browser:
        yield browser


@pytest.fixture
async def tab(browser: Browser, server: ServerProcess, origin: str) -> PageAgent:
    return await PageAgent.open(await browser.page(), server, origin)


@pytest.fixture(params=["node", "chromium"])
async def agent(request: pytest.FixtureRequest, server: ServerProcess) -> AsyncIterator[Agent]:
    """同样的话，在 Node 里与在别的来源的页面上。"""
    if request.param == "node":
        node, sdk = request.getfixturevalue("node"), request.getfixturevalue("sdk")
        ws = request.getfixturevalue("tools") / "node_modules" / "ws" / "wrapper.mjs"
        async with NodeAgent.start(node, sdk, ws, server) as started:
            yield started
    else:
        binary = request.getfixturevalue("chromium")
        async with open_browser(binary.address) as browser:
            page = await browser.page()
            yield await PageAgent.open(page, server, request.getfixturevalue("origin"))
