"""各角色的进程用了多少 CPU 与内存：一个角色是一个进程连同它的后代。"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from ..failure import BenchError
from ..sampler import cpu_seconds, memory_use, peak_memory, reset_peak_memory

#: 内嵌的 Redis 是这两个程序之一（``redis/embedded.py``）。
_REDIS: Final = ("redis-server", "valkey-server")


class Census:
    """``roots``：角色 → 它最上面的进程。Redis 不算在角色里：它的数字问它自己。"""

    def __init__(self, roots: Mapping[str, Sequence[int]]) -> None:
        self._roots = roots

    @property
    def known(self) -> bool:
        """对着别人的服务器又没有给 pid，就什么也不知道。"""
        return bool(self._roots)

    def cpu_seconds(self) -> dict[str, float]:
        """角色 → 用过的 CPU 秒；刚结束的进程不算。"""
        return {role: sum(map(_cpu, pids)) for role, pids in self._members().items()}

    def memory_bytes(self) -> dict[str, int]:
        """角色 → PSS；共享的页按份均摊，所以可以相加。"""
        return {role: sum(map(_pss, pids)) for role, pids in self._members().items()}

    def reset_peaks(self) -> None:
        """各进程的内存最高点从此刻记起。

        :raises BenchError: 有进程刚结束
        """
        for pids in self._members().values():
            for pid in pids:
                reset_peak_memory(pid)

    def peak_bytes(self) -> int:
        """全部角色 RSS 的最高点之和；各进程的未必同时。

        :raises BenchError: 有进程刚结束
        """
        return sum(peak_memory(pid) for pids in self._members().values() for pid in pids)

    def process_count(self) -> dict[str, int]:
        return {role: len(pids) for role, pids in self._members().items()}

    def _members(self) -> dict[str, list[int]]:
        children = _children()
        return {
            role: [pid for root in roots for pid in _family(root, children) if not _is_redis(pid)]
            for role, roots in self._roots.items()
        }


def _children() -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdecimal() and (parent := _parent(int(name))) is not None:
            found.setdefault(parent, []).append(int(name))
    return found


def _family(root: int, children: Mapping[int, Sequence[int]]) -> Iterator[int]:
    yield root
    for child in children.get(root, ()):
        yield from _family(child, children)


def _parent(pid: int) -> int | None:
    try:
        # 进程名可以含空格与括号：从最后一个 ) 之后数
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


def _is_redis(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text().startswith(_REDIS)
    except OSError:
        return False


def _cpu(pid: int) -> float:
    try:
        return cpu_seconds(pid)
    except BenchError:  # 刚结束
        return 0.0


def _pss(pid: int) -> int:
    try:
        return memory_use(pid).pss
    except BenchError:
        return 0
