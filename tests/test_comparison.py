"""``docs/comparison.md``：头几步的表是数出来的；比的数在性能的页上。"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

import pytest

from tests.support.citations import DOCS, ROOT

PAGE: Final = (DOCS / "comparison.md").read_text()
TUTORIAL: Final = (DOCS / "tutorial.md").read_text()
OTHERS: Final = (ROOT / "bench" / "peers" / "first_steps.md").read_text()
#: 表里的一行 → 教程的节（没有的在 ``docs/embedding.md``），别的两样的节。
STEPS: Final = {
    "跑起来（连同装）": "跑起来",
    "自己的第一条（两个人，命令行上）": "自己的第一条",
    "自己的页面": "自己的页面",
    "装进 FastAPI": "装进 FastAPI",
    "两个节点，在 nginx 后面": "两个节点",
}
_BLOCK: Final = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_WAITING: Final = re.compile(r"until |for port in |done\b|  until |  sleep ")


class Counted(NamedTuple):
    """命令、文件、行。"""

    commands: int
    files: int
    lines: int


def section(text: str, heading: str) -> str:
    found = re.search(rf"^(#+) {re.escape(heading)}.*?\n(.*?)(?=^#{{1,3}} |\Z)", text, re.M | re.S)
    return "" if found is None else found[2]


def counted(text: str) -> Counted:
    blocks = _BLOCK.findall(text)
    commands = sum(len(typed(body)) for kind, body in blocks if kind == "sh")
    files = [body for kind, body in blocks if kind != "sh"]
    return Counted(commands, len(files), sum(len(written(body)) for body in files))


def typed(block: str) -> list[str]:
    """敲下的命令；续行算一行，等它起来的不算，注释不算。"""
    lines = re.sub(r"\\\n", " ", block).splitlines()
    return [
        line
        for line in lines
        if line.strip() and not re.match(r"\s*#", line) and not _WAITING.match(line)
    ]


def written(file: str) -> list[str]:
    return [line for line in file.splitlines() if line.strip()]


def ours(heading: str) -> Counted:
    if heading == "装进 FastAPI":
        return counted(section((DOCS / "embedding.md").read_text(), "十五行"))
    if heading == "跑起来":  # 装包的那一块在它前面
        return counted(TUTORIAL.partition("\n## ")[0] + section(TUTORIAL, heading))
    return counted(section(TUTORIAL, heading))


def other(product: str, heading: str) -> Counted | None:
    text = OTHERS.partition(f"\n## {product}\n")[2].partition("\n## ")[0]
    found = section(text, heading)
    return counted(found) if found else None


def cells(row: str) -> list[str]:
    (found,) = re.findall(rf"^\| {re.escape(row)} \| (.+) \|$", PAGE, re.MULTILINE)
    return str(found).split(" | ")


@pytest.mark.parametrize(("row", "heading"), STEPS.items(), ids=STEPS)
def test_a_row_of_the_first_steps_is_what_the_pages_count(row: str, heading: str) -> None:
    found = [ours(heading), other("Centrifugo", heading), other("python-socketio", heading)]
    said = [
        "没有命令行的客户端，见下" if one is None else " · ".join(map(str, one)) for one in found
    ]
    assert cells(row) == said


def test_what_is_counted() -> None:
    text = "```sh\na \\\n  b\n# c\nuntil d; do sleep 1; done\n```\n```html\n<p>\n\n</p>\n```\n"
    assert counted(text) == Counted(1, 1, 2)


@pytest.mark.parametrize(
    "figure",
    [
        "18,004",
        "5,369",
        "10,195",
        "4,637",
        "100,000",
        "60,000",
        "0.32",
        "9.5",
        "58.1",
        "94,720",
        "9,433",
        "9.7",
        "43.7",
    ],
)
def test_a_figure_stands_on_the_page_of_the_measurements(figure: str) -> None:
    assert figure in PAGE
    assert figure in (DOCS / "performance.md").read_text()
