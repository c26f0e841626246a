"""``docs/asyncapi.yaml`` 在 AsyncAPI 的参考解析器里（C11）；要 Node、npm，与够得着的 npm 仓库。"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from tests.support import asyncapi

PARSER: Final = "@asyncapi/parser@3.6.6"
INSTALL_S: Final = 180
SCRIPT: Final = Path(__file__).with_name("asyncapi_parser.mjs")


@pytest.fixture(scope="module")
def parser(request: pytest.FixtureRequest) -> Path:
    """装着解析器的目录；装一次，留在 pytest 的缓存里。"""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("no Node.js with npm on PATH")
    folder = request.config.cache.mkdir("asyncapi-parser")
    if not (folder / "node_modules" / "@asyncapi" / "parser").exists():
        _install(npm, folder)
    return folder


def _install(npm: str, folder: Path) -> None:
    (folder / "package.json").write_text('{"private": true}')
    options = ("--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(folder))
    try:
        subprocess.run(
            [npm, "install", *options, PARSER], check=True, capture_output=True, timeout=INSTALL_S
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        shutil.rmtree(folder / "node_modules", ignore_errors=True)
        pytest.skip(f"npm could not install {PARSER}: {type(error).__name__}")


def opinions(parser: Path, document: Path) -> str:
    found = subprocess.run(
        ["node", SCRIPT, parser, document], check=True, capture_output=True, text=True, timeout=60
    )
    return found.stdout


@pytest.mark.timeout(INSTALL_S + 60)
def test_c11_the_reference_parser_has_nothing_to_say(parser: Path) -> None:
    assert opinions(parser, asyncapi.PATH) == ""


@pytest.mark.timeout(INSTALL_S + 60)
def test_the_reference_parser_would_say_something(parser: Path, tmp_path: Path) -> None:
    """整数的键：0.1 的十五处错就是它。"""
    broken = tmp_path / "asyncapi.yaml"
    broken.write_text(asyncapi.PATH.read_text().replace("'4000':", "4000:"))
    assert "Mapping key must be a string" in opinions(parser, broken)
