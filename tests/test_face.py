"""对外的一面：``meeting_push`` 一个模块够用；``MeetingPush`` 只有说好支持的。"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Final, get_args

import pytest

import meeting_push
from meeting_push import MeetingPush, client, errors, load_settings
from meeting_push.client import wire
from tests.support.citations import ROOT

NAMES: Final = set(meeting_push.__all__)


def classes_of(module: object) -> set[str]:
    """``module`` 自己定义的类。"""
    return {
        name
        for name, each in vars(module).items()
        if inspect.isclass(each) and each.__module__ == getattr(module, "__name__", "")
    }


# ── meeting_push.__all__ ────────────────────────────────────────────────────


@pytest.mark.parametrize("name", meeting_push.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    assert getattr(meeting_push, name) is not None


def test_every_error_can_be_caught_by_its_name() -> None:
    assert classes_of(errors) <= NAMES


def test_the_whole_sdk_is_there() -> None:
    assert set(client.__all__) <= NAMES


def test_every_event_of_the_client_has_a_name() -> None:
    assert {event.__name__ for event in get_args(wire.Event)} <= NAMES


# ── MeetingPush ─────────────────────────────────────────────────────────────


@pytest.fixture
def push(tmp_path: Path) -> MeetingPush:
    return MeetingPush(load_settings(data_dir=tmp_path, redis_url="redis://127.0.0.1:1"))


#: 说好支持的；改它就是改契约。
SUPPORTED: Final = {
    *("settings", "node_id", "router", "lifespan", "start", "drain", "stop", "displaced"),
    *("probes", "pages", "error_handlers"),
    *("messages", "broadcasts", "meetings", "publisher", "mailbox", "confirmation"),
    *(
        "people",
        "presence",
        "manager",
        "auth",
        "revocations",
        "erasures",
        "on",
        "health",
        "metrics",
    ),
}


def test_an_application_sees_what_is_supported_and_nothing_else(push: MeetingPush) -> None:
    assert {name for name in dir(push) if not name.startswith("_")} == SUPPORTED


def test_each_supported_attribute_has_its_reason() -> None:
    reasons = re.findall(r"^ +- (.+?)：.+$", MeetingPush.__doc__ or "", re.MULTILINE)
    assert set(re.findall(r"``(\w+)``", " ".join(reasons))) == SUPPORTED


def test_the_type_of_each_supported_attribute_can_be_named(push: MeetingPush) -> None:
    kinds = {type(getattr(push, name)) for name in SUPPORTED}
    ours = {each.__name__ for each in kinds if each.__module__.startswith("meeting_push")}
    assert ours <= NAMES


# ── 例子 ────────────────────────────────────────────────────────────────────


def python_shown() -> Iterator[tuple[str, str]]:
    """例子，与各页里的 Python。"""
    for path in sorted(ROOT.glob("examples/*.py")):
        yield path.name, path.read_text()
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")):
        for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
            yield page.name, block
    yield "MeetingPush", re.findall(r"::\n\n(.*?)\n\n", MeetingPush.__doc__ or "", re.DOTALL)[0]


#: 对外的，从自己的模块导入。
OF_THEIR_OWN: Final = {"meeting_push.sync", "meeting_push.testing"}


def inner_modules(text: str) -> list[str]:
    """``text`` 从 ``meeting_push`` 里面导入的模块。"""
    found = []
    for node in ast.walk(ast.parse(textwrap.dedent(text))):
        if isinstance(node, ast.ImportFrom):
            found.append(node.module or "")
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return [name for name in found if name.startswith("meeting_push.") and name not in OF_THEIR_OWN]


@pytest.mark.parametrize("shown", list(python_shown()), ids=lambda shown: shown[0])
def test_nothing_we_show_imports_an_inner_module(shown: tuple[str, str]) -> None:
    assert inner_modules(shown[1]) == []


def test_an_inner_module_is_found() -> None:
    assert inner_modules("from meeting_push.model import Draft\nimport meeting_push.app")
