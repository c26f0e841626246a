"""这台机器：读 ``/proc``，一次不到一毫秒；没有它的系统上就没有这些数。"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from .metrics import Sample
from .process_usage import max_files, open_files

_PROC: Final = Path("/proc")
_CGROUP: Final = Path("/sys/fs/cgroup")


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
