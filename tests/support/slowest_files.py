"""``--slowest-files N``：末尾列出最慢的几个文件，准备与收尾都算在内。"""

from __future__ import annotations

from collections import defaultdict

import pytest


class SlowestFiles:
    def __init__(self, count: int) -> None:
        self._count = count
        self._seconds: defaultdict[str, float] = defaultdict(float)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        path = report.nodeid.partition("::")[0]
        self._seconds[path] += report.duration

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        total = sum(self._seconds.values())
        terminalreporter.section(f"slowest files, of {len(self._seconds)} and {total:.0f} s")
        slowest = sorted(self._seconds.items(), key=lambda item: -item[1])
        for path, seconds in slowest[: self._count]:
            terminalreporter.line(f"{seconds:7.1f} s  {path}")
