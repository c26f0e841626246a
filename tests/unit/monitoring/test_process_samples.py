"""事件循环有多迟，垃圾回收停了多久。"""

from __future__ import annotations

import gc
import time

from meeting_push.monitoring.process_samples import (
    LAG_EVERY_S,
    GcPauses,
    LoopLag,
    process_histograms,
    process_samples,
)


async def test_a_loop_that_was_held_up_is_late() -> None:
    lag = LoopLag()
    lag.note()
    time.sleep(LAG_EVERY_S + 0.2)  # noqa: ASYNC251 — 占住循环正是所要的
    lag.note()
    assert 0.2 <= lag.largest_s < 2
    assert lag.histogram.count == 1


def test_a_collection_is_counted_and_timed() -> None:
    pauses = GcPauses()
    pauses.start()
    try:
        gc.collect()
    finally:
        pauses.stop()
    assert pauses.collections[2] == 1
    assert pauses.histogram.count == 1
    gc.collect()
    assert pauses.collections[2] == 1


async def test_the_build_is_named() -> None:
    lag, pauses = LoopLag(), GcPauses()
    [build] = [one for one in process_samples(lag, pauses) if one.name == "build_info"]
    assert build.labels.keys() == {"version", "python"}
    assert {one.name for one in process_histograms(lag, pauses)} == {
        "event_loop_lag_seconds",
        "gc_pause_seconds",
    }
