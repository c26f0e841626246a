"""网页测试的夹具：一个 Chromium、一个真实的服务器，每个测试一个全新的浏览器环境。"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.support.server_process import ServerProcess
from tests.system.web.browser import Browser, Chromium, find_chromium, open_browser


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


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("server")) as process:
        yield process
