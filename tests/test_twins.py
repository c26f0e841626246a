"""中文的页与英文的页是孪生：标题一一对应，块一字不差，表、链接、等宽的名字都相同。"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[1]
DOCS: Final = ROOT / "docs"
#: 块里有给人看的话（标题、正文、注释）的页；别的一字不差。
SPOKEN: Final = frozenset({"README.md", "tutorial.md"})
_FENCE: Final = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_WORDS: Final = re.compile(r"\"(title|content)\": \"[^\"]*\"|\s*#.*")
_LINK: Final = re.compile(r"\]\(([^)\s]+)\)")


def chinese_of(english: Path) -> Path:
    if english.parent == ROOT:
        return ROOT / "README.zh-CN.md"
    return english.with_name(english.name.replace(".en.md", ".md"))


TWINS: Final = [ROOT / "README.md", *sorted(DOCS.rglob("*.en.md"))]


def prose(text: str) -> str:
    return _FENCE.sub("", text)


def headings(text: str) -> list[int]:
    return [len(marks) for marks in re.findall(r"^(#+) ", prose(text), re.MULTILINE)]


def blocks(text: str, *, spoken: bool = False) -> list[tuple[str, str]]:
    """没有写语言的是图，里面是话。"""
    found = [(kind, body) for kind, body in _FENCE.findall(text) if kind]
    return [(kind, _WORDS.sub("", body)) for kind, body in found] if spoken else found


def tables(text: str) -> list[int]:
    """每一行有几栏。"""
    rows = re.findall(r"^\|.*\|$", prose(text), re.MULTILINE)
    return [len(re.findall(r"(?<!\\)\|", row)) for row in rows]


def links(text: str) -> Counter[str]:
    """去掉小节；两种语言的同一页算一页。"""
    found = (target.partition("#")[0] for target in _LINK.findall(prose(text)))
    return Counter(re.sub(r"(\.en|\.zh-CN)?\.md$", ".md", each) for each in found)


def names(text: str) -> Counter[str]:
    """等宽的：命令、设置、字段。"""
    return Counter(re.findall(r"`([^`\n]+)`", prose(text).replace("\n", " ")))


@pytest.mark.parametrize("english", TWINS, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_and_its_twin_say_the_same(english: Path) -> None:
    chinese = chinese_of(english)
    ours, theirs = english.read_text(), chinese.read_text()
    spoken = chinese.name in SPOKEN or english.parent == ROOT
    assert headings(ours) == headings(theirs)
    assert blocks(ours, spoken=spoken) == blocks(theirs, spoken=spoken)
    assert tables(ours) == tables(theirs)
    assert links(ours) == links(theirs)
    assert names(ours) == names(theirs)


def test_every_how_to_has_its_twin_and_each_leads_to_the_other() -> None:
    pages = {page.name for page in DOCS.glob("howto/*.md")}
    english = {name for name in pages if name.endswith(".en.md")}
    assert {name.replace(".en.md", ".md") for name in english} == pages - english
    for page in TWINS:
        twin = chinese_of(page)
        assert f"]({twin.name})" in page.read_text()
        assert f"]({page.name})" in twin.read_text()


@pytest.mark.parametrize("page", sorted(DOCS.glob("howto/*.md")), ids=lambda page: page.name)
def test_a_how_to_is_in_the_list_of_its_language(page: Path) -> None:
    english = page.name.endswith(".en.md")
    index = DOCS / "howto" / ("README.en.md" if english else "README.md")
    assert page == index or f"]({page.name})" in index.read_text()


@pytest.mark.parametrize("page", sorted(DOCS.glob("howto/*.md")), ids=lambda page: page.name)
def test_a_how_to_says_how_to_see_that_it_worked_and_what_can_go_wrong(page: Path) -> None:
    text = page.read_text()
    if page.stem.startswith("README"):
        return
    assert re.search(r"^(目标：|Goal: )", text, re.MULTILINE)
    assert re.search(r"^## (会出什么错|What can go wrong)$", text, re.MULTILINE)
    assert re.search(r"^```text$", text, re.MULTILINE), "nothing shows that it worked"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("# a\n## b", "# a\n# b"),
        ("```sh\nls\n```", "```sh\nls -l\n```"),
        ("| a | b |", "| a |"),
        ("[a](b.en.md)", "[a](c.md)"),
        ("`MEETING_PUSH_PORT`", "`MEETING_PUSH_HOST`"),
    ],
)
def test_a_page_that_is_no_twin_is_found(one: str, other: str) -> None:
    assert any(tell(one) != tell(other) for tell in (headings, blocks, tables, links, names))
