"""这个进程与它的机器：事件循环有多迟，垃圾回收停了多久，CPU、内存、盘、打开的文件。

读 ``/proc``，一次不到一毫秒；没有它的系统上就没有那些数。
"""

from __future__ import annotations

import asyncio
import gc
import os
import platform
import resource
import shutil
import time
from collections import Counter, deque
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from ..histogram import Histogram
from ..supervision import periodically
from ..version import __version__
from .metrics import HistogramSample, Sample
from .snapshots import Family, Kind, Point

#: 隔多久看一次循环迟了多少；最迟的一次看最近多久的。
LAG_EVERY_S: Final = 0.5
RECENT_S: Final = 60.0
_PAUSES_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
_PROC: Final = Path("/proc")
_CGROUP: Final = Path("/sys/fs/cgroup")


class LoopLag:
    """定时器该响而迟了多久：循环被谁占着。``run`` 须由监督者一直运行。"""

    def __init__(self) -> None:
        self.histogram = Histogram(_PAUSES_S)
        self._due: float | None = None
        self._recent: deque[float] = deque(maxlen=int(RECENT_S / LAG_EVERY_S))

    @property
    def largest_s(self) -> float:
        return max(self._recent, default=0.0)

    async def run(self) -> None:
        """监督者运行的循环体；永不返回。"""
        self._due = None
        await periodically(self.note, partial(asyncio.sleep, LAG_EVERY_S))

    def note(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._due is not None:
            late_s = max(0.0, now - self._due)
            self.histogram.record(late_s)
            self._recent.append(late_s)
        self._due = now + LAG_EVERY_S


class GcPauses:
    """``start`` 之后听 ``gc.callbacks``，``stop`` 之后不听。"""

    def __init__(self) -> None:
        self.histogram = Histogram(_PAUSES_S)
        self.collections: Counter[int] = Counter()
        self._began = 0.0

    def start(self) -> None:
        gc.callbacks.append(self._note)

    def stop(self) -> None:
        gc.callbacks.remove(self._note)

    def _note(self, phase: str, info: dict[str, Any]) -> None:
        if phase == "start":
            self._began = time.perf_counter()
        else:
            self.histogram.record(time.perf_counter() - self._began)
            self.collections[info["generation"]] += 1


def process_samples(lag: LoopLag, pauses: GcPauses) -> Iterator[Sample]:
    """任务只增不减就是有人忘了结束它。须在事件循环里调用。"""
    about = {"version": __version__, "python": platform.python_version()}
    yield Sample("build_info", "gauge", "1; the labels say what runs", 1, about, "shared")
    yield Sample("asyncio_tasks", "gauge", "tasks of the event loop", len(asyncio.all_tasks()))
    text = "largest lateness of the event loop in the last minute"
    yield Sample("event_loop_lag_max_seconds", "gauge", text, lag.largest_s, scope="process")
    for generation in range(3):
        labels, count = {"generation": str(generation)}, pauses.collections[generation]
        yield Sample("gc_collections", "counter", "garbage collections", count, labels)


def process_histograms(lag: LoopLag, pauses: GcPauses) -> Iterator[HistogramSample]:
    text = "how late the event loop is, looked at twice a second"
    yield HistogramSample("event_loop_lag_seconds", text, lag.histogram)
    yield HistogramSample("gc_pause_seconds", "pauses of garbage collection", pauses.histogram)


# ── /proc ────────────────────────────────────────────────────────────────────


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


def process_usage() -> Iterator[Family]:
    """``process_*``，名字同 prometheus_client 的。

    不用它的 ``ProcessCollector``：那里每次列出全部打开的文件，几万条连接时要停二十毫秒。
    """
    try:
        fields = (_PROC / "self" / "stat").read_text().rpartition(")")[2].split()
        boot_s = _boot_s()
    except OSError:
        return
    tick = os.sysconf("SC_CLK_TCK")
    cpu_s = (int(fields[11]) + int(fields[12])) / tick
    started_s = boot_s + int(fields[19]) / tick
    resident = int(fields[21]) * resource.getpagesize()
    yield _used("process_cpu_seconds", "counter", "user and system CPU time", cpu_s)
    yield _used("process_start_time_seconds", "gauge", "start, since the epoch", started_s)
    yield _used("process_virtual_memory_bytes", "gauge", "virtual memory", int(fields[20]))
    yield _used("process_resident_memory_bytes", "gauge", "resident memory", resident)
    yield _used("process_open_fds", "gauge", "open file descriptors", open_files())
    yield _used("process_max_fds", "gauge", "limit of open file descriptors", max_files())


def _used(name: str, kind: Kind, help_text: str, value: float) -> Family:
    suffix = "_total" if kind == "counter" else ""
    return Family(name, kind, help_text, points=[Point(suffix, (), value)])


def _boot_s() -> int:
    lines = (_PROC / "stat").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("btime"))


class Memory(NamedTuple):
    total_bytes: int
    available_bytes: int

    @property
    def usage(self) -> float:
        return 1 - self.available_bytes / self.total_bytes


def memory() -> Memory | None:
    """机器的；容器的上限更小就是容器的。"""
    try:
        lines = (_PROC / "meminfo").read_text().splitlines()
    except OSError:
        return None
    kilobytes = {name: int(rest.split()[0]) for name, _, rest in (x.partition(":") for x in lines)}
    total, available = kilobytes["MemTotal"] * 1024, kilobytes["MemAvailable"] * 1024
    limit, used = _number(_CGROUP / "memory.max"), _number(_CGROUP / "memory.current")
    if limit is not None and used is not None and limit < total:
        return Memory(limit, max(0, limit - used))
    return Memory(total, available)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # 没有 cgroup；没有上限（max）
        return None


class Processors:
    """全部处理器：两次看之间有多忙。"""

    def __init__(self) -> None:
        self._before = _jiffies()
        #: 0…1；还没有看过两次则 0。
        self.usage = 0.0

    def look(self) -> None:
        before, self._before = self._before, _jiffies()
        if before is None or self._before is None:
            return
        busy, total = (now - then for now, then in zip(self._before, before, strict=True))
        if total > 0:
            self.usage = busy / total


def _jiffies() -> tuple[int, int] | None:
    """忙的与全部。"""
    try:
        fields = [int(one) for one in (_PROC / "stat").read_text().split("\n", 1)[0].split()[1:9]]
    except OSError:
        return None
    idle = fields[3] + fields[4]  # idle、iowait
    return sum(fields) - idle, sum(fields)


class Host:
    """``look`` 隔几秒叫一次；``samples`` 只说最近看到的。"""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._processors = Processors()
        self._memory = memory()
        self._disk: tuple[int, int] | None = None

    def look(self) -> None:
        self._processors.look()
        self._memory = memory()
        self._disk = self._disk_now()

    def _disk_now(self) -> tuple[int, int] | None:
        for folder in (self._data_dir, *self._data_dir.absolute().parents):
            try:
                usage = shutil.disk_usage(folder)
            except OSError:  # 还没有造
                continue
            return usage.used + usage.free, usage.free
        return None

    def samples(self) -> Iterator[Sample]:
        yield _usage("open_files", open_files() / max_files())
        yield _usage("cpu", self._processors.usage)
        if self._memory is not None:
            yield _usage("memory", self._memory.usage)
            yield _fact("host_memory_total_bytes", "memory", self._memory.total_bytes)
            yield _fact("host_memory_available_bytes", "free", self._memory.available_bytes)
        if self._disk is not None:
            size, free = self._disk
            yield _usage("disk", 1 - free / size if size else 0.0)
            yield _fact("disk_size_bytes", "disk of the data folder", size)
            yield _fact("disk_free_bytes", "free on the disk of the data folder", free)


def _usage(what: str, ratio: float) -> Sample:
    text = "used share: cpu, memory, disk of this machine; open_files of this process"
    labels = {"resource": what}
    return Sample("resource_usage_ratio", "gauge", text, round(ratio, 4), labels, "process")


def _fact(name: str, text: str, value: float) -> Sample:
    return Sample(name, "gauge", text, value, scope="shared")
