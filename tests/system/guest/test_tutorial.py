"""``docs/tutorial.md`` 从空文件夹照抄着跑到底，中文的与英文的；只换端口与装包。"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import psutil
import pytest

from tests.support.empty_environment import EmptyEnvironment
from tests.support.ports import free_port
from tests.system.web.browser import Chromium, Page, open_browser
from tests.system.web.conftest import chromium as chromium

ROOT: Final = Path(__file__).parents[3]

pytestmark = pytest.mark.timeout(240)

_BLOCK: Final = re.compile(r"```(sh|html)\n(.*?)```", re.DOTALL)
PAGES: Final = ("tutorial.md", "tutorial.en.md")
#: 命令与页面，不算给人看的话。
_WORDS: Final = re.compile(r"\"(title|content)\": \"[^\"]*\"")


def blocks(page: str) -> list[tuple[str, str]]:
    return _BLOCK.findall((ROOT / "docs" / page).read_text())


def test_the_two_are_twins() -> None:
    chinese, english = ([(kind, _WORDS.sub("", text)) for kind, text in blocks(p)] for p in PAGES)
    assert chinese == english


class Shell:
    """一个一直开着的 bash：块一个一个地给它，出错就结束；``ended`` 是它的回答。"""

    def __init__(self, full: EmptyEnvironment, folder: Path) -> None:
        path = f"{full.bin}:/usr/sbin:{full.variables['PATH']}"
        kept = {k: v for k, v in full.variables.items() if not k.startswith("MEETING_PUSH_")}
        self._folder = folder
        self._bash = subprocess.Popen(
            ["bash", "-e"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=kept | {"PATH": path},
            start_new_session=True,
        )

    def run(self, block: str) -> str:
        """``block`` 打印的。"""
        assert self._bash.stdin is not None
        assert self._bash.stdout is not None
        self._bash.stdin.write(f"{block}\necho; echo --ended--\n")
        self._bash.stdin.flush()
        lines = list[str]()
        for line in self._bash.stdout:
            if line == "--ended--\n":
                return "".join(lines)
            lines.append(line)
        logs = [f"{log.name}: {log.read_text()[-500:]}" for log in self._folder.glob("*.log")]
        raise AssertionError(f"{block} ended the shell: {''.join(lines)} {logs}")

    def stop(self) -> None:
        family = [psutil.Process(self._bash.pid), *psutil.Process(self._bash.pid).children(True)]
        for process in family:
            process.terminate()
        _, alive = psutil.wait_procs(family, timeout=20)
        for process in alive:
            process.kill()
        self._bash.communicate()


@pytest.fixture
def shell(full: EmptyEnvironment, tmp_path: Path) -> Iterator[Shell]:
    running = Shell(full, tmp_path)
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
@pytest.mark.parametrize("name", PAGES)
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
