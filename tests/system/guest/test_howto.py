"""``docs/howto/`` 的每一页从空文件夹照抄着跑到底；只换端口与 PostgreSQL 的地址。

写着“存成 …：”的块写进那个文件，``sh`` 的跑，其后 ``text`` 的每一行都要在它打印的里面，次序相同
（``…`` 是随便什么）。英文的块一字不差（``tests/test_twins.py``），不必再跑。
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.empty_environment import EmptyEnvironment
from tests.support.ports import free_port
from tests.support.shell import Shell

ROOT: Final = Path(__file__).parents[3]
PAGES: Final = [
    page
    for page in sorted((ROOT / "docs" / "howto").glob("*.md"))
    if not page.name.endswith(".en.md") and page.stem != "README"
]
_BLOCK: Final = re.compile(
    r"(?:存成 (?P<file>[\w.]+)：\n\n)?```(?P<kind>\w+)\n(?P<text>.*?)```", re.DOTALL
)
_PORTS: Final = re.compile(r"\b(?:6379|6380|26379|26380|26381|1?700[1-6]|800[0-4]|8080|9000)\b")
_DATABASE: Final = "postgresql://push@127.0.0.1:5432/push"
#: 页上用到的程序 → 没有它就不跑。
_WANTED: Final = ("redis-server", "redis-cli", "nginx", "openssl", "curl", "pg_dump")

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def installed(product: Path, tmp_path_factory: pytest.TempPathFactory) -> EmptyEnvironment:
    folder = tmp_path_factory.mktemp("howto")
    return EmptyEnvironment(folder, "meeting-push[server,postgres]", [product])


@pytest.fixture
def on_our_ports() -> Callable[[str], str]:
    """同一个端口总是换成同一个空着的。"""
    ours: dict[str, str] = {}

    def replaced(port: re.Match[str]) -> str:
        return ours.setdefault(port[0], str(free_port()))

    return lambda text: _PORTS.sub(replaced, text)


@pytest.fixture
def database(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """页上的 PostgreSQL 换成真的，用到才建。"""

    def replaced(text: str) -> str:
        if _DATABASE not in text:
            return text
        url: str = request.getfixturevalue("postgres_server").create_database()
        return text.replace(_DATABASE, url.replace("+asyncpg", ""))

    return replaced


@pytest.fixture
def shell(
    installed: EmptyEnvironment, tmp_path: Path, on_our_ports: Callable[[str], str]
) -> Iterator[Shell]:
    running = Shell(installed, tmp_path, MEETING_PUSH_PORT=on_our_ports("8000"))
    yield running
    running.stop()


def _missing(text: str) -> list[str]:
    path = f"{os.environ['PATH']}:/usr/sbin"
    return [name for name in _WANTED if f"{name} " in text and not shutil.which(name, path=path)]


def _check(printed: str, expected: str) -> None:
    """``expected`` 的各行，照次序。"""
    for line in expected.splitlines():
        found = re.search(".*".join(map(re.escape, line.split("…"))), printed)
        assert found, (line, printed)
        printed = printed[found.end() :]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_each_block_runs_and_prints_what_the_page_shows(
    page: Path,
    shell: Shell,
    tmp_path: Path,
    on_our_ports: Callable[[str], str],
    database: Callable[[str], str],
) -> None:
    text = page.read_text()
    if missing := _missing(text):
        pytest.skip(f"no {', '.join(missing)}")
    example = (ROOT / "deploy" / "proxies" / "nginx.conf").read_text()
    example = example.replace("200000", "1000").replace("100000", "500")
    (tmp_path / "nginx.conf").write_text(on_our_ports(example))
    printed = ""
    for block in _BLOCK.finditer(database(on_our_ports(text))):
        if block["file"]:
            (tmp_path / block["file"]).write_text(block["text"])
        elif block["kind"] == "sh":
            printed = shell.run(block["text"])
        else:
            assert block["kind"] == "text", block[0]
            _check(printed, block["text"])
