"""进度：一步一行，看得见在做什么、做到哪里。"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

#: (已做, 共)。
OnProgress = Callable[[int, int], None]


def silent(done: int, total: int) -> None:
    """不关心进度的人给它。"""


class Steps:
    """终端上是会动的表；不是终端（日志、CI）时每一步开始时一行字。"""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            SpinnerColumn(finished_text="✓"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    @contextlib.contextmanager
    def showing(self) -> Iterator[None]:
        with self._progress:
            yield

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[OnProgress]:
        if not self._console.is_terminal:
            self._console.print(name)
        task = self._progress.add_task(name, total=None)

        def on_progress(done: int, total: int) -> None:
            self._progress.update(task, completed=done, total=total)

        yield on_progress
        self._progress.update(task, completed=1, total=1)
