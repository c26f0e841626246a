"""参考页的样子：一格里的字、一张表、从别的页搬来的一句话。"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from .schema import Field

ROOT: Final = Path(__file__).resolve().parents[2]
DOCS: Final = ROOT / "docs"
FOLDER: Final = DOCS / "reference"


def head(page: str) -> str:
    """一页的开头，手写的。"""
    return (Path(__file__).parent / "heads" / f"{page}.md").read_text()


def cell(text: str) -> str:
    """放进表里的一格：一行，竖线转义；``两个反引号`` 是 docstring 的写法。"""
    joined = re.sub(r"(?<=[^\x00-\xff])\s*\n\s*(?=[^\x00-\xff])", "", text)
    said = " ".join(joined.replace("``", "`").split())
    return re.sub(r"(?<!\\)\|", r"\\|", said)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    titles = list(head)
    lines = [" | ".join(cell(one) or "—" for one in row) for row in rows]
    return [
        f"| {' | '.join(titles)} |",
        "|" + "---|" * len(titles),
        *(f"| {one} |" for one in lines),
    ]


def fields(rows: Iterable[Field], *, sent: bool = False) -> list[str]:
    """``sent``：服务器发出的；没有缺省值，不必填什么。"""
    if sent:
        head = ("字段", "类型", "含义")
        shown = [(_name(one, "?"), one.kind, one.meaning) for one in rows]
        return table(head, shown)
    return table(
        ("字段", "类型", "缺省", "含义"),
        (
            (
                _name(one),
                one.kind,
                "必填" if one.required else f"`{one.default}`" if one.default else "",
                one.meaning,
            )
            for one in rows
        ),
    )


def _name(one: Field, optional: str = "") -> str:
    return f"`{one.name}`" + ("" if one.required else optional)


def rebased(text: str, page: str) -> str:
    """``docs/<page>`` 里的一句话搬到 ``docs/reference/``：链接从这里算起。"""

    def mended(link: re.Match[str]) -> str:
        target = link[1]
        if re.match(r"[a-z]+:", target):
            return link[0]
        return f"](../{page}{target})" if target.startswith("#") else f"](../{target})"

    return re.sub(r"\]\(([^)\s]+)\)", mended, text)
