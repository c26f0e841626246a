"""``docs/requirements.md``：读进来；一格一行，证据是测试、命令，或者明说的缺口。"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PATH: Final = ROOT / "docs" / "requirements.md"
#: 证据一栏以它开头：还没有做到，后一栏说明。
GAP: Final = "缺口"

_HEADING: Final = re.compile(r"^## (.+)$")
_ROW: Final = re.compile(r"^\| ([\w.-]*\d) \| ([^|]+) \| ([^|]+) \| ([^|]*) \|$")
_CODE: Final = re.compile(r"`([^`]+)`")


@dataclass(frozen=True)
class Requirement:
    """``number`` 如 ``1-2.2-3``：阶段 1，任务 2.2，第 3 格；验收标准是 ``1-4.2-A5``。"""

    task: str
    number: str
    text: str
    evidence: str
    note: str

    @property
    def is_gap(self) -> bool:
        return self.evidence.startswith(GAP)

    @property
    def tests(self) -> list[str]:
        """``tests/….py::…``，类里的写全。"""
        return [each for each in _CODE.findall(self.evidence) if "::" in each]

    @property
    def commands(self) -> list[str]:
        """``make …`` 与 ``meeting-push …``。"""
        found = _CODE.findall(self.evidence)
        return [each for each in found if each.startswith(("make ", "meeting-push "))]


def requirements() -> list[Requirement]:
    return list(_rows(PATH.read_text().splitlines()))


def _rows(lines: list[str]) -> Iterator[Requirement]:
    task = ""
    for line in lines:
        if heading := _HEADING.match(line):
            task = heading[1]
        elif row := _ROW.match(line):
            yield Requirement(task, *(cell.strip() for cell in row.groups()))
