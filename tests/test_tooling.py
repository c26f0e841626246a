"""Makefile、锁文件与 设置的两份说明不会悄悄落后；轮子的测试怎样算过。"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml

from meeting_push.settings import FLAT, Settings
from meeting_push.version import __version__
from tools.settings_pages import pages
from tools.wheels import twice

ROOT = Path(__file__).parent.parent
LOCKS = ("runtime", "dev")
PAGE = pages()[ROOT / "docs" / "settings.md"]


def test_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    assert phony is not None
    menu = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.findall(r"^  make (\S+)", menu, re.MULTILINE) == phony[1].split()


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_what_is_said_of_the_settings_is_up_to_date(page: Path) -> None:
    assert page.read_text() == pages()[page], "run: make settings"


@pytest.mark.parametrize(
    ("page", "row"),
    [(".env.example", r"^#MEETING_PUSH_(\w+)="), ("docs/settings.md", r"^\| `(\w+)` \|")],
)
def test_every_setting_is_shown_by_the_name_it_is_given_by(page: str, row: str) -> None:
    shown = re.findall(row, pages()[ROOT / page], re.MULTILINE)
    assert [name.lower() for name in shown] == list(FLAT)


@pytest.mark.parametrize("name", FLAT)
def test_every_setting_has_a_meaning_and_a_unit(name: str) -> None:
    (row,) = re.findall(rf"^\| `{name.upper()}` \| (.+) \|$", PAGE, re.MULTILINE)
    meaning, unit, _, _ = row.split(" | ")
    assert meaning
    assert unit


def test_every_group_has_a_title() -> None:
    assert len(re.findall(r"^## .+\n\n`settings\.\w+`$", PAGE, re.MULTILINE)) == len(
        Settings.model_fields
    )


@pytest.mark.parametrize(("lock", "group"), [("runtime", "build"), ("dev", "dev")])
def test_the_lock_has_every_dependency_of_pyproject(lock: str, group: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [
        *project["project"]["dependencies"],
        *chain(*project["project"]["optional-dependencies"].values()),
        *_requirements(project, group),
    ]
    locked = re.findall(r"^([a-z0-9-]+)==", _lock(lock), re.MULTILINE)
    assert {_name(requirement) for requirement in wanted} <= set(locked)


def test_the_dev_lock_agrees_with_the_runtime_lock() -> None:
    pins = [set(re.findall(r"^[a-z0-9-]+==[^ ]+", _lock(n), re.MULTILINE)) for n in LOCKS]
    assert pins[0] <= pins[1]


@pytest.mark.parametrize("lock", [*LOCKS, "peers"])
def test_every_locked_package_has_a_hash_and_no_host(lock: str) -> None:
    text = _lock(lock)
    for entry in re.split(r"^(?=[a-z0-9-]+==)", text, flags=re.MULTILINE)[1:]:
        assert "--hash=sha256:" in entry
    assert "://" not in text


def _lock(name: str) -> str:
    return (ROOT / "requirements" / f"{name}.txt").read_text()


def _requirements(project: dict[str, Any], group: str) -> list[str]:
    entries = project["dependency-groups"][group]
    included = [e["include-group"] for e in entries if isinstance(e, dict)]
    own = [e for e in entries if isinstance(e, str)]
    return own + [r for name in included for r in _requirements(project, name)]


def _name(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9-]+", requirement)
    assert found is not None
    return found[0]


def test_every_part_has_the_same_version() -> None:
    """发行包、压测、JavaScript 的包、Helm 的图、AsyncAPI、清单、变更记录，同一个数。"""
    chart = yaml.safe_load((ROOT / "deploy/helm/meeting-push/Chart.yaml").read_text())
    bill = json.loads((ROOT / "deploy/sbom/meeting-push.cdx.json").read_text())
    released = re.search(r"^## \[(\d.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert released is not None
    said = {
        "pyproject.toml": _project("pyproject.toml")["version"],
        "bench/pyproject.toml": _project("bench/pyproject.toml")["version"],
        "package.json": json.loads((ROOT / "clients/js/package.json").read_text())["version"],
        "chart": chart["version"],
        "chart's app": chart["appVersion"],
        "bill": bill["metadata"]["component"]["version"],
        "changelog": released[1],
    }
    assert said == dict.fromkeys(said, __version__)


def _project(path: str) -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((ROOT / path).read_text())["project"]
    return project


@pytest.mark.timeout(300)
def test_what_did_not_pass_of_the_wheels_is_tried_once_more_alone(tmp_path: Path) -> None:
    """第二次过的算过，再不过就是不过；过了的不再来。"""
    (tmp_path / "test_some.py").write_text(
        "from pathlib import Path\n"
        "import pytest\n"
        "@pytest.mark.parametrize('name', ['first', 'second', 'never'])\n"
        "def test(name):\n"
        "    tried = Path(f'{name}.tried')\n"
        "    before = tried.read_text() if tried.exists() else ''\n"
        "    tried.write_text(before + 'x')\n"
        "    assert name == 'first' or (name == 'second' and before)\n"
    )

    def attempt(arguments: Sequence[str]) -> int:
        command = [sys.executable, "-m", "pytest", "-p", "xdist", "-c", "/dev/null"]
        only = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        done = subprocess.run([*command, *arguments], cwd=tmp_path, env=only, check=False)
        return done.returncode

    assert twice(attempt, ("-k", "not never")) == 0
    assert twice(attempt, ("-k", "never")) == 1
    tried = {file.stem: file.read_text() for file in tmp_path.glob("*.tried")}
    assert tried == {"first": "x", "second": "xx", "never": "xx"}
