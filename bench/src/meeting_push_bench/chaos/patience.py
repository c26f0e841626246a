"""等多久就算没有希望了：数的是走着的时间，整台机器停住的那一段不怪谁。"""

from __future__ import annotations

from time import monotonic


class Patience:
    """``step_s``：两次看之间至多算这么久；比看一次所需的长，否则等得比说的久。"""

    def __init__(self, for_s: float, step_s: float = 5.0) -> None:
        self._left = for_s
        self._step_s = step_s
        self._looked = monotonic()

    def over(self) -> bool:
        now = monotonic()
        self._left -= min(now - self._looked, self._step_s)
        self._looked = now
        return self._left <= 0
