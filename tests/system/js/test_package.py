"""``npm pack`` 出来的装进一个空的 Vite + TypeScript 项目：严格的类型说得通，打包得成。"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Final
from uuid import uuid4

import pytest

from tests.support.people import register, send
from tests.support.server_process import ServerProcess
from tests.system.web.browser import Browser

from .conftest import INSTALL_S, SDK

pytestmark = pytest.mark.timeout(2 * INSTALL_S + 120)

VITE: Final = "8.4.0"
SOURCES: Final = Path(__file__).with_name("vite")


@pytest.fixture(scope="module")
def vite(tools: Path, request: pytest.FixtureRequest) -> Path:
    """装着 Vite 的目录，装一次；同一个 TypeScript。"""
    folder = request.config.cache.mkdir(f"js-vite-{VITE}")
    if not (folder / "installed").exists():
        (folder / "package.json").write_text('{"private": true}')
        options = ("--ignore-scripts", "--no-audit", "--no-fund")
        command = ["npm", "install", *options, f"vite@{VITE}"]
        try:
            subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=INSTALL_S)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            pytest.skip(f"npm could not install vite: {type(error).__name__}")
        (folder / "installed").touch()
    return folder


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def packed(tools: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``npm pack`` 的 tgz；它自己先造（``prepack``）。"""
    copy = tmp_path_factory.mktemp("pack") / "js"
    ignored = shutil.ignore_patterns("node_modules", "dist")
    shutil.copytree(SDK, copy, ignore=ignored)
    (copy / "node_modules").symlink_to(tools / "node_modules")
    listed = json.loads(run(copy, "npm", "pack", "--json", "--silent"))
    described = listed[0] if isinstance(listed, list) else next(iter(listed.values()))
    return copy / str(described["filename"])


def test_the_package_holds_what_it_says_and_no_sources(packed: Path) -> None:
    with tarfile.open(packed) as archive:
        names = sorted(name.removeprefix("package/") for name in archive.getnames())
    assert names == [
        "README.md",
        "dist/meeting-push-inbox.d.ts",
        "dist/meeting-push-inbox.js",
        "dist/meeting-push.d.ts",
        "dist/meeting-push.iife.js",
        "dist/meeting-push.js",
        "dist/meeting-push.min.js",
        "dist/meeting-push.worker.js",
        "package.json",
    ]


@pytest.fixture(scope="module")
def project(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """一个空的项目，装好了它。"""
    folder = tmp_path_factory.mktemp("project")
    for source in SOURCES.iterdir():
        shutil.copy(source, folder / source.name)
    (folder / "package.json").write_text('{"private": true, "type": "module"}')
    run(folder, "npm", "install", "--offline", "--no-audit", "--no-fund", str(packed))
    return folder


def built(project: Path, vite: Path) -> str:
    run(project, "node", str(vite / "node_modules" / "vite" / "bin" / "vite.js"), "build")
    (script,) = (project / "dist" / "assets").glob("*.js")
    return script.read_text()


def test_an_empty_vite_project_type_checks_and_builds_with_it(
    project: Path, vite: Path, tools: Path
) -> None:
    tsc = tools / "node_modules" / "typescript" / "bin" / "tsc"
    run(project, "node", str(tsc), "-p", ".")
    assert "meeting-push.v1" in built(project, vite)


async def test_what_was_built_works(
    project: Path, vite: Path, browser: Browser, server: ServerProcess, origin: str
) -> None:
    """打包出来的应用，在别的来源上：连上，收到，显示在铃铛里。"""
    page_of_it = project / "index.html"
    page_of_it.write_text(page_of_it.read_text().replace("main.ts", "app.ts"))
    script = await asyncio.to_thread(built, project, vite)
    person = await register(server.base_url, f"vite-{uuid4().hex[:8]}")
    page = await browser.page()
    await page.open(f"{origin}/")
    given = {"url": server.base_url, "userId": person.user_id, "token": person.token}
    await page.evaluate(f"globalThis.given = {json.dumps(given)}; 1")
    blob = f"new Blob([{json.dumps(script)}], {{ type: 'text/javascript' }})"
    await page.evaluate(f"import(URL.createObjectURL({blob})).then(() => 1)")
    await send(server.base_url, person, [person], title="through the bundle")
    await page.wait_for("globalThis.seen.includes('through the bundle')", 60)
    row = "document.querySelector('meeting-push-inbox').shadowRoot.querySelector('.item .name')"
    await page.wait_for(f"{row}?.textContent === 'through the bundle'", 60)
    assert page.problems == []
