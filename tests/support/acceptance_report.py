"""``reports/acceptance.md``：每一条需求 → 测试 → 结果 → 用时 → 量得的数。

两套阶段测试跑过才写；同一次运行里的别的测试若也是某一格的证据，一并写上。
"""

from __future__ import annotations

import platform
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from .requirements_table import ROOT, Requirement, requirements

PATH: Final = ROOT / "reports" / "acceptance.md"
SUITES: Final = (
    "tests/stages/test_stage1_integration.py",
    "tests/stages/test_stage2_integration.py",
)
#: 一条证据有几个结果（参数化）时，坏的说了算。
_WORST: Final = ("failed", "xfailed", "skipped", "passed")
_SIGNS: Final = {"passed": "✅ 通过", "failed": "❌ 失败", "skipped": "⏭ 跳过", "xfailed": "⚠️ 缺口"}


@dataclass
class Result:
    """一个测试函数，连同它的全部参数。"""

    outcomes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    figures: list[str] = field(default_factory=list)

    @property
    def sign(self) -> str:
        worst = next(each for each in _WORST if each in self.outcomes)
        count = f" ×{len(self.outcomes)}" if len(self.outcomes) > 1 else ""
        return _SIGNS[worst] + count


class AcceptanceReport:
    """pytest 的插件；``results`` 的键是去掉参数的 node id。"""

    def __init__(self) -> None:
        self.results: defaultdict[str, Result] = defaultdict(Result)
        self._start = time.time()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        result = self.results[report.nodeid.partition("[")[0]]
        result.seconds += report.duration
        if report.when == "call" or report.outcome != "passed":  # 准备与收尾只在不好时算
            known_gap = report.outcome == "skipped" and hasattr(report, "wasxfail")
            result.outcomes.append("xfailed" if known_gap else report.outcome)
            result.figures += [f"{name}：{value}" for name, value in report.user_properties]

    def pytest_sessionfinish(self) -> None:
        if any(name.startswith(SUITES) and one.outcomes for name, one in self.results.items()):
            self.write(PATH)

    def write(self, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(self._lines(requirements())) + "\n")

    def _lines(self, rows: Sequence[Requirement]) -> Iterator[str]:
        yield "# 验收报告"
        yield ""
        yield from self._summary(rows)
        task = ""
        for row in rows:
            if row.task != task:
                task = row.task
                yield from ("", f"## {task}", "")
                yield "| 编号 | 需求 | 证据 | 结果 | 用时 | 量得的数、说明或缺口 |"
                yield "|---|---|---|---|---:|---|"
            yield from self._row(row)

    def _summary(self, rows: Sequence[Requirement]) -> Iterator[str]:
        ran = [one for name, one in self.results.items() if name.startswith(SUITES)]
        outcomes = [each for one in ran for each in one.outcomes]
        counts = "，".join(
            f"{_SIGNS[each]} {outcomes.count(each)}" for each in _SIGNS if each in outcomes
        )
        started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self._start))
        machine = f"{platform.system()} {platform.release()}，Python {platform.python_version()}"
        yield f"- 开始：{started}，用了 {time.time() - self._start:.0f} 秒；{machine}"
        yield f"- 两套阶段测试：{counts}"
        gaps = sum(row.is_gap for row in rows)
        yield f"- 需求 {len(rows)} 条，其中有缺口的 {gaps} 条（`docs/requirements.md`）"
        yield "- 用时含准备：同一个服务器的启动算在它的第一个测试里"

    def _row(self, row: Requirement) -> Iterator[str]:
        head, note = (row.number, row.text), row.note
        if not row.tests and not row.commands:
            yield _cells(*head, "—", _SIGNS["xfailed"], "", note)
        for name in row.tests:
            yield _cells(*head, f"`{name}`", *self._outcome(name, note))
            head, note = ("", ""), ""
        for command in row.commands:
            yield _cells(*head, f"`{command}`", "命令", "", note)
            head, note = ("", ""), ""

    def _outcome(self, name: str, note: str) -> tuple[str, str, str]:
        """结果、用时、量得的数与说明。"""
        result = self.results.get(name)
        if result is None or not result.outcomes:
            return "这次没有跑", "", note
        notes = "；".join(filter(None, [*result.figures, note]))
        return result.sign, f"{result.seconds:.2f} s", notes


def _cells(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
