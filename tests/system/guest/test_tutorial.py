"""``docs/tutorial.md`` 从空文件夹照抄着跑到底，中文的与英文的；只换端口与装包。"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.empty_environment import Environment
from tests.support.ports import free_port
from tests.support.shell import Shell
from tests.system.web.browser import Chromium, Page, open_browser
from tests.system.web.conftest import chromium as chromium

ROOT: Final = Path(__file__).parents[3]

pytestmark = pytest.mark.timeout(240)

_BLOCK: Final = re.compile(r"```(sh|html)\n(.*?)```", re.DOTALL)


@pytest.fixture
def shell(newcomer: Environment, tmp_path: Path) -> Iterator[Shell]:
    running = Shell(newcomer, tmp_path)
    yield running
    running.stop()


@pytest.fixture
async def page(chromium: Chromium) -> AsyncIterator[Page]:
    async with open_browser(chromium.address) as browser:
        yield await browser.page()


def on_free_ports(page: str, folder: Path) -> list[tuple[str, str]]:
    """各块，端口换成空着的；nginx 的例子放在文件夹里，它的也换。"""
    ports = {port: str(free_port()) for port in ("9000", "6379", "8001", "8002", "8080")}
    first = str(free_port())
    example = (ROOT / "deploy" / "proxies" / "nginx.conf").read_text()
    example = example.replace("200000", "1000").replace("100000", "500")
    (folder / "nginx.conf").write_text(example.replace("listen 8080", f"listen {ports['8080']}"))
    text = (ROOT / "docs" / page).read_text().replace("127.0.0.1:8000", f"127.0.0.1:{first}")
    for port, ours in ports.items():
        text = re.sub(rf"\b{port}\b", ours, text)
    text = text.replace("meeting-push serve >", f"meeting-push serve --port {first} >")
    where = f"meeting-push listen --url http://127.0.0.1:{first} --user-id"
    found: list[tuple[str, str]] = _BLOCK.findall(
        text.replace("meeting-push listen --user-id", where)
    )
    return found


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="no redis-server on PATH")
@pytest.mark.skipif(not Path("/usr/sbin/nginx").exists(), reason="no nginx")
@pytest.mark.parametrize(
    ("name", "newcomer"),
    [("tutorial.md", "full"), ("tutorial.en.md", "on_3_13")],
    indirect=["newcomer"],
)
async def test_each_block_runs_and_shows_what_it_says(
    name: str, shell: Shell, page: Page, tmp_path: Path
) -> None:
    install, start, first, state, html, serve_page, again, nodes, across = on_free_ports(
        name, tmp_path
    )
    assert install == ("sh", "pip install 'meeting-push[server]'\n")
    began = time.monotonic()
    shell.run(start[1])
    assert json.loads(shell.run(first[1]))["title"]
    shell.run(state[1])
    assert html[0] == "html"
    (tmp_path / "page.html").write_text(html[1])
    await page.open(shell.run(serve_page[1]).strip())
    shell.run(again[1])
    (title,) = re.findall(r'"content": "([^"]+)"', again[1])
    await page.wait_for_text("#list", title)
    shell.run(nodes[1])
    assert json.loads(shell.run(across[1]))["title"]
    print(f"{time.monotonic() - began:.1f} s")
    assert page.problems == []
