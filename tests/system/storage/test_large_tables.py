"""表大一百倍，各条路不跟着慢：没有一条要扫过整张表。

``MEETING_PUSH_LARGE_ROWS=20000000`` 看更大的；量得的写在 ``docs/performance.md``。
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable

import pytest
from rich.console import Console

from meeting_push_bench.progress import Steps
from meeting_push_bench.report import Heading
from meeting_push_bench.tables import TablesPlan, TablesReport, run_tables
from tests.support.postgres_server import PostgresServer

Show = Callable[[str], None]
PLAN = TablesPlan(rows=int(os.environ.get("MEETING_PUSH_LARGE_ROWS", "2000000")))


def compared(url: str | None, show: Show) -> TablesReport:
    heading = Heading.now("tables", "meeting-push bench tables")
    report = run_tables(PLAN, url, heading, Steps(Console(file=io.StringIO())))
    for figure in report.figures:
        show(f"{figure.label}: {figure.value:.2f} {figure.unit}")
    return report


def missed(report: TablesReport) -> list[str]:
    return [figure.label for figure in report.figures if figure.met is False]


@pytest.mark.full_size
@pytest.mark.timeout(7_200)
def test_a_sqlite_file_a_hundred_times_larger_is_not_slower(show: Show) -> None:
    assert missed(compared(None, show)) == []


@pytest.mark.full_size
@pytest.mark.timeout(7_200)
def test_a_postgres_table_a_hundred_times_larger_is_not_slower(
    postgres_server: PostgresServer, show: Show
) -> None:
    assert missed(compared(postgres_server.create_database(), show)) == []
