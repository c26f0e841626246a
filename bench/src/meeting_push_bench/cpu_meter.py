"""一段时间里一个进程用了多少 CPU。"""

from __future__ import annotations

from .sampler import cpu_seconds


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
