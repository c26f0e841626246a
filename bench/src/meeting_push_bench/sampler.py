"""一个进程用了多少 CPU 与内存：此刻的，一段时间里的。"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .failure import BenchError

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """字节。PSS 把共享页按份均摊，是“这个进程消失能还回多少”的最好估计。"""

    pss: int
    rss: int


def cpu_seconds(pid: int) -> float:
    """用户态加内核态，所有线程；粒度 10 ms，所以要量够几秒。"""
    # 进程名可以含空格与括号：从最后一个 ) 之后数，utime、stime 是其后第 12、13 个
    fields = _read(pid, "stat").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def machine_cpu_seconds() -> float:
    """整台机器忙了多少（各核合计，含被虚拟机管理器拿走的）；不含空闲与等磁盘。"""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(
        int, Path("/proc/stat").read_text().split(maxsplit=9)[1:9]
    )
    return (user + nice + system + irq + softirq + steal) / _TICKS_PER_S


def memory_use(pid: int) -> MemoryUse:
    lines = _read(pid, "smaps_rollup").splitlines()[1:]
    kilobytes = {
        name: int(rest.split()[0]) for name, _, rest in (li.partition(":") for li in lines)
    }
    return MemoryUse(pss=kilobytes["Pss"] * 1024, rss=kilobytes["Rss"] * 1024)


def peak_memory(pid: int) -> int:
    """RSS 的最高点，字节；从上一次 ``reset_peak_memory`` 起。内核自己记着，不必一次次去看。"""
    for line in _read(pid, "status").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise BenchError(f"process {pid} has no memory to measure")


def reset_peak_memory(pid: int) -> None:
    try:
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    except OSError as error:
        raise BenchError(f"process {pid} can not be measured: {error.strerror}") from None


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except OSError as error:
        raise BenchError(f"process {pid} can not be measured: {error.strerror}") from None


class CpuMeter:
    """从构造时起算；``pid`` 为 None（不知道的服务器）就什么也量不到。"""

    def __init__(self, pid: int | None) -> None:
        self._pid = pid
        self._start = self._now()

    def used_s(self) -> float | None:
        now = self._now()
        return now - self._start if now is not None and self._start is not None else None

    def _now(self) -> float | None:
        return cpu_seconds(self._pid) if self._pid is not None else None
