"""引用：源码、测试、文档里写着的编号与页，各有一页定义它；找出哪儿也不通的。"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
DOCS: Final = ROOT / "docs"
SEARCHED: Final = ("src", "bench", "tests", "docs", "examples", "tools")
SUFFIXES: Final = frozenset({".py", ".lua", ".js", ".mjs", ".html", ".css", ".md", ".yaml", ".sh"})
AT_THE_TOP: Final = ("README.md", "README.zh-CN.md", "CHANGELOG.md", "Makefile", "pyproject.toml")


def rows(page: str, pattern: str) -> Set[str]:
    """``docs/<page>`` 的表里第一栏合乎 ``pattern`` 的。"""
    return set(re.findall(rf"^\| ({pattern}) \|", (DOCS / page).read_text(), re.MULTILINE))


def _stations() -> Set[str]:
    return set(re.findall(r"^## (\d+)\. ", (DOCS / "life-of-a-message.md").read_text(), re.M))


def _decisions() -> Set[str]:
    return {path.name[:4] for path in DOCS.glob("adr/[0-9]*.md")}


@dataclass(frozen=True)
class Kind:
    """一种引用。``written``：怎样写；``numbers``：从写着的里取出编号；``known``：定义了哪些。"""

    name: str
    written: re.Pattern[str]
    numbers: Callable[[str], list[str]]
    known: Callable[[], Set[str]]
    page: str


def _digits(text: str) -> list[str]:
    return re.findall(r"\d+", text)


def _upper(text: str) -> list[str]:
    return [text.upper().replace("_", "-")]


KINDS: Final = (
    Kind(
        "lesson",
        re.compile(r"\bLESSONS? \d+(?:、\d+)*|\btest_lesson_\d+"),
        _digits,
        cache(lambda: rows("lessons.md", r"\d+")),
        "docs/lessons.md",
    ),
    Kind(
        "promise",
        re.compile(r"\b(?:DLV|CON|SEC|ISO)-\d\d?\b|(?<=\btest_)(?:dlv|con|sec|iso)_\d+(?=_)"),
        _upper,
        cache(lambda: rows("promises.md", r"[A-Z]{3}-\d+")),
        "docs/promises.md",
    ),
    Kind(
        "finding",  # 前面的 “-”“#”“%” 之类：验收标准、颜色、百分号编码，不是它
        re.compile(r"(?<![\w\-#%/\\\"'.+])[A-F]\d{1,2}(?![\w\-.%])|(?<=\btest_)[a-f]\d{1,2}(?=_)"),
        _upper,
        cache(lambda: rows("findings.md", r"[A-F]\d+")),
        "docs/findings.md",
    ),
    Kind(
        "decision",
        re.compile(r"\bADR ?\d{4}\b|决定 ?\d{4}|\badr/\d{4}"),
        _digits,
        cache(_decisions),
        "docs/adr/",
    ),
    Kind(
        "station",
        re.compile(r"第 ?\d+ ?站"),
        _digits,
        cache(_stations),
        "docs/life-of-a-message.md",
    ),
    Kind(
        "page",
        re.compile(r"\bdocs/[\w./\-]*\w\.(?:md|yaml)\b|\badr/[\w\-]+(?=`)"),
        lambda text: [text.removeprefix("docs/").removesuffix(".md")],
        cache(lambda: {str(p.relative_to(DOCS)).removesuffix(".md") for p in DOCS.rglob("*.*")}),
        "docs/",
    ),
    Kind(
        "page at the top",
        re.compile(r"\b[A-Z]{5,}(?=\.md\b| ?§|“)"),
        lambda text: [text],
        cache(lambda: {path.stem for path in ROOT.glob("*.md")}),
        "the folder of the project",
    ),
)


def dangling(text: str) -> Iterator[str]:
    """``text`` 里哪儿也不通的引用，各一行话。"""
    for kind in KINDS:
        for cited in kind.written.findall(text):
            for number in kind.numbers(cited):
                if number not in kind.known():
                    yield f"{kind.name} {number} is not in {kind.page}"


def searched() -> Iterator[Path]:
    """可能写着引用的每个文件。"""
    for folder in SEARCHED:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in SUFFIXES and "node_modules" not in path.parts:
                yield path
    yield from (ROOT / name for name in AT_THE_TOP)


# ── 链接 ────────────────────────────────────────────────────────────────────


@cache
def anchors(page: Path) -> Set[str]:
    """一页的标题在链接里怎样写：小写，标点去掉，空格成连字符。"""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-") for title in titles}


def dead_links(page: Path) -> Iterator[str]:
    """一页里指向本仓库而不通的链接。"""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        there = (page.parent / path).resolve() if path else page
        if not there.exists() or (anchor and anchor not in anchors(there)):
            yield target
