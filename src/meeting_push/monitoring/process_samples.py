"""进程自己：事件循环有多迟，垃圾回收停了多久，是哪个版本。"""

from __future__ import annotations

import asyncio
import gc
import platform
import time
from collections import Counter, deque
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

from ..histogram import Histogram
from ..supervision import periodically
from ..version import __version__
from .metrics import HistogramSample, Sample

#: 隔多久看一次循环迟了多少；最迟的一次看最近多久的。
LAG_EVERY_S: Final = 0.5
RECENT_S: Final = 60.0
_PAUSES_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)


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
