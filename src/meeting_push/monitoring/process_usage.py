"""这个进程用了多少：``process_*``，名字同 prometheus_client 的；读 ``/proc``，没有它则没有。

不用它的 ``ProcessCollector``：那里每次列出全部打开的文件，几万条连接时要停二十毫秒。
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal, NamedTuple

_PROC: Final = Path("/proc")


class Usage(NamedTuple):
    """``name`` 是全名，计数器的不带 ``_total``。"""

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    value: float


def open_files() -> int:
    """这个进程打开的；不逐个列出（Linux 6.2 起，文件夹的大小就是个数）。"""
    folder = _PROC / "self" / "fd"
    try:
        return folder.stat().st_size or len(os.listdir(folder))
    except OSError:
        return 0


def max_files() -> float:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return float("inf") if limit == resource.RLIM_INFINITY else limit


def process_usage() -> Iterator[Usage]:
    try:
        fields = (_PROC / "self" / "stat").read_text().rpartition(")")[2].split()
        boot_s = _boot_s()
    except OSError:
        return
    tick = os.sysconf("SC_CLK_TCK")
    cpu_s = (int(fields[11]) + int(fields[12])) / tick
    started_s = boot_s + int(fields[19]) / tick
    resident = int(fields[21]) * resource.getpagesize()
    yield Usage("process_cpu_seconds", "counter", "user and system CPU time", cpu_s)
    yield Usage("process_start_time_seconds", "gauge", "start, since the epoch", started_s)
    yield Usage("process_virtual_memory_bytes", "gauge", "virtual memory", int(fields[20]))
    yield Usage("process_resident_memory_bytes", "gauge", "resident memory", resident)
    yield Usage("process_open_fds", "gauge", "open file descriptors", open_files())
    yield Usage("process_max_fds", "gauge", "limit of open file descriptors", max_files())


def _boot_s() -> int:
    lines = (_PROC / "stat").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("btime"))
