"""``docs/reference/`` 是由代码写出的那几页：新的，不缺，每一样都说了是什么。"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

import meeting_push
from meeting_push import errors
from meeting_push.monitoring.alerts.rules import RULES
from meeting_push.protocol.codes import CloseCode
from tests.support.citations import DOCS, ROOT
from tests.test_requirements import METHODS
from tools.reference import PAGES, codes, command_line, frames, rest, written
from tools.reference.docstrings import markdown
from tools.reference.pages import cell, rebased
from tools.reference.schema import Shapes
from tools.reference.signatures import written as signature

FOLDER: Final = DOCS / "reference"
SOURCES: Final = "\n".join(
    path.read_text() for path in (ROOT / "src" / "meeting_push").rglob("*.py")
)


def headings(page: str, level: int) -> list[str]:
    return re.findall(rf"^{'#' * level} (.+)$", (FOLDER / page).read_text(), re.MULTILINE)


@pytest.mark.parametrize("page", written(), ids=lambda page: page.name)
def test_a_page_is_up_to_date(page: Path) -> None:
    assert page.read_text() == written()[page], "run: make reference"


def test_no_other_page_is_there() -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(PAGES)


# ── REST ────────────────────────────────────────────────────────────────────


def test_every_call_has_its_section_and_says_who_may() -> None:
    document, _ = rest.api()
    calls = {
        f"{method.upper()} {path.removeprefix(rest.API)}"
        for path, methods in document["paths"].items()
        for method in methods
    }
    text = (FOLDER / "rest.md").read_text()
    assert len(headings("rest.md", 3)) == len(calls)
    assert set(headings("rest.md", 3)) == calls
    assert len(re.findall(r"^- 谁：\S", text, re.MULTILINE)) == len(calls)


@pytest.mark.parametrize("page", ["rest.md", "frames.md"])
def test_every_field_and_parameter_says_what_it_means(page: str) -> None:
    silent = re.findall(r"^\| (`.+`)\??.* \| — \|$", (FOLDER / page).read_text(), re.MULTILINE)
    assert silent == [], "a description in the code, or a word in tools/reference/words.py"


def test_the_scopes_are_those_of_the_guard() -> None:
    """``tests/unit/router/test_security.py`` 守着服务器真的这样做。"""
    _, guards = rest.api()
    assert guards["POST /messages"] == ("send", "admin")
    assert guards["GET /presence/online"] == ("presence", "admin")
    assert guards["GET /queues"] == ("admin",)
    assert guards["GET /messages"] is None


# ── 帧、码 ──────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("channel", ["userMessages", "meeting"])
def test_every_frame_has_its_section(channel: str) -> None:
    messages = frames.document()["channels"][channel]["messages"]
    shown = [*frames.sent(channel, "send"), *frames.sent(channel, "receive")]
    assert sorted(shown) == sorted(messages)


def test_every_error_has_its_code_and_every_close_code_its_advice() -> None:
    text = (FOLDER / "codes.md").read_text()
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    ours = {kind.code for kind in kinds if issubclass(kind, errors.MeetingPushError)}
    assert ours - set(re.findall(r"^\| \d+ \| `(\w+)`", text, re.M)) == (
        codes.INSIDE | codes.ON_THE_SOCKET
    )
    closing = {
        int(code): said for code, said in re.findall(r"^\| (\d{4}) \|.*\| (.+) \|$", text, re.M)
    }
    assert closing.keys() == set(CloseCode)
    assert "—" not in closing.values()


@pytest.mark.parametrize(
    "code", frames.document()["components"]["schemas"]["Error"]["properties"]["code"]["x-codes"]
)
def test_a_code_of_a_frame_is_in_the_code(code: str) -> None:
    assert f'"{code}"' in SOURCES


@pytest.mark.parametrize("one", codes.WITHOUT_A_CLASS, ids=lambda one: one.code)
def test_a_code_without_a_class_is_in_the_code(one: codes.Code) -> None:
    assert f'"{one.code}"' in SOURCES or one.code == "method_not_allowed"  # 标准短语来的


# ── 告警、命令、Python ──────────────────────────────────────────────────────


def test_every_rule_has_its_section() -> None:
    assert headings("alert-rules.md", 2) == list(RULES)


def test_every_command_has_its_section_and_every_parameter_a_meaning() -> None:
    tree = dict(command_line.commands())
    assert headings("command-line.md", 2) == list(tree)
    silent = [
        f"{name} {one.name}" for name, all_ in tree.items() for one in all_.params if not one.help
    ]
    assert silent == []


def test_every_public_name_is_there() -> None:
    text = (FOLDER / "python.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| `\w+` \|", text, re.MULTILINE)
    assert set(meeting_push.__all__) - {*headings("python.md", 3), *rows} == set()


def test_every_method_of_the_requirements_is_there() -> None:
    wanted = {f"{kind.__name__}.{name}" for kind, methods in METHODS.items() for name in methods}
    assert wanted - set(headings("python.md", 4)) == set()


# ── 怎样写 ──────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        ({"type": "integer", "minimum": 1, "maximum": 9}, "整数 1…9"),
        ({"type": "string", "maxLength": 64}, "文字 ≤ 64 字"),
        ({"type": ["object", "null"]}, "对象 或 null"),
        ({"enum": ["a", "b"]}, "`a` · `b`"),
        ({"type": "array", "maxItems": 3, "items": {"type": "boolean"}}, "列表 ≤ 3 个，各是真假"),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "整数 或 null"),
        ({"type": "object", "additionalProperties": {"type": "number"}}, "对象，值是数"),
    ],
)
def test_a_type_in_a_few_words(schema: dict[str, object], kind: str) -> None:
    assert Shapes(lambda _: {}).kind(schema) == kind


def test_the_fields_inside_are_listed_too() -> None:
    inner = {"type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"]}
    outer = {"properties": {"items": {"type": "array", "items": {"$ref": "inner"}}}}
    found = [one.name for one in Shapes(lambda _: inner).fields(outer)]
    assert found == ["items", "items[].id"]


def test_a_docstring_becomes_markdown() -> None:
    text = "做 ``这个``::\n\n    go()\n\n完。\n\n:param a: 一\n:raises ValueError: 不对，\n    再来"
    assert markdown(text) == (
        "做 `这个`：\n\n```py\ngo()\n```\n\n完。\n\n- `a`：一\n- 抛出 `ValueError`：不对，\n  再来"
    )


def test_a_long_signature_has_a_line_for_each_parameter() -> None:
    def short(self: object, a: int, *, b: str = "x") -> None: ...
    def long(
        a_rather_long_name: int, *rest: str, another_rather_long_name: dict[str, int]
    ) -> None: ...

    assert signature("short", short) == "short(a: int, *, b: str = 'x') -> None"
    assert signature("long", long).splitlines()[1:3] == [
        "    a_rather_long_name: int,",
        "    *rest: str,",
    ]


def test_a_sentence_moved_into_the_folder_keeps_its_links() -> None:
    assert rebased("[a](b.md#c) [d](#e) [f](https://g)", "contract.md") == (
        "[a](../b.md#c) [d](../contract.md#e) [f](https://g)"
    )
    assert cell("a | b\n``c``") == "a \\| b `c`"
