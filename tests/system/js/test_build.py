"""造出来的：与提交的一个字节不差，类型说得通，自己的测试过得去。"""

from __future__ import annotations

import gzip
import os
import subprocess
from importlib.resources import files
from pathlib import Path
from typing import Final

import pytest

from .conftest import INSTALL_S, SDK

pytestmark = pytest.mark.timeout(INSTALL_S + 120)

SERVED: Final = (".js", ".iife.js", ".worker.js", ".d.ts", "-inbox.js", "-inbox.d.ts")


def run(node: str, tools: Path, *arguments: str) -> str:
    env = {**os.environ, "JS_TOOLS": str(tools)}
    done = subprocess.run(
        [node, *arguments], cwd=SDK, env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_files_that_are_served_are_built_from_the_sources(
    node: str, tools: Path, tmp_path: Path
) -> None:
    """``npm run build`` 写它们。"""
    run(node, tools, "build.mjs", str(tmp_path / "dist"), str(tmp_path / "web"))
    served = files("meeting_push") / "web"
    for name in SERVED:
        built = (tmp_path / "web" / f"meeting-push{name}").read_bytes()
        assert built == (served / f"meeting-push{name}").read_bytes(), name


def test_the_core_is_small_and_the_element_apart() -> None:
    served = files("meeting_push") / "web"
    core, element = (served / f"meeting-push{name}.js" for name in ("", "-inbox"))
    assert len(gzip.compress(core.read_bytes())) <= 12 * 1024
    assert len(gzip.compress(element.read_bytes())) <= 12 * 1024
    assert b"attachShadow" not in core.read_bytes()


def test_sources_and_tests_type_check(node: str, tools: Path, tmp_path: Path) -> None:
    copy = tmp_path / "js"
    copy.mkdir()
    for name in ("src", "test", "tsconfig.json", "tsconfig.test.json"):
        (copy / name).symlink_to(SDK / name)
    (copy / "node_modules").symlink_to(tools / "node_modules")
    tsc = str(tools / "node_modules" / "typescript" / "bin" / "tsc")
    for project in ("tsconfig.json", "tsconfig.test.json"):
        options = ("--noEmit", "--preserveSymlinks")
        run(node, tools, tsc, "-p", str(copy / project), *options)


def test_its_own_tests_pass(node: str, tools: Path) -> None:
    run(node, tools, "test.mjs")


def test_the_iife_is_one_global(node: str) -> None:
    script = files("meeting_push") / "web" / "meeting-push.iife.js"
    code = f"vm.runInThisContext(fs.readFileSync({str(script)!r}, 'utf8')); " + (
        "console.log(Object.keys(MeetingPush).sort().join())"
    )
    done = subprocess.run([node, "-e", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "PushClient,PushError,memoryStore,webStore"
