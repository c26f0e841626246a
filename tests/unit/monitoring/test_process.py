"""事件循环有多迟，垃圾回收停了多久；这台机器与这个进程用了多少。"""

from __future__ import annotations

import gc
import os
import time
from pathlib import Path

import psutil
import pytest

from meeting_push.monitoring.metrics import Sample
from meeting_push.monitoring.process import (
    LAG_EVERY_S,
    GcPauses,
    Host,
    LoopLag,
    open_files,
    process_histograms,
    process_samples,
    process_usage,
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


def looked(data_dir: Path) -> list[Sample]:
    host = Host(data_dir)
    sum(range(1_000_000))  # 两次看之间总要过去几个时钟滴答
    while True:
        host.look()
        samples = list(host.samples())
        if {one.labels.get("resource") for one in samples} >= {"cpu"}:
            return samples


def test_each_resource_is_a_share(tmp_path: Path) -> None:
    shares = {
        one.labels["resource"]: one.value
        for one in looked(tmp_path)
        if one.name == "resource_usage_ratio"
    }
    assert shares.keys() == {"cpu", "memory", "disk", "open_files"}
    assert all(0 <= share <= 1 for share in shares.values())


def test_the_disk_is_that_of_a_folder_not_made_yet(tmp_path: Path) -> None:
    [size] = [one.value for one in looked(tmp_path / "a" / "b") if one.name == "disk_size_bytes"]
    assert size > 0


def test_a_file_more_is_a_file_more(tmp_path: Path) -> None:
    before = open_files()
    with (tmp_path / "one").open("w"):
        assert open_files() == before + 1


def test_the_figures_of_the_process_are_its_own() -> None:
    mine, found = psutil.Process(), {one.name: one.points[0].value for one in process_usage()}
    assert found["process_start_time_seconds"] == pytest.approx(mine.create_time(), abs=2)
    assert found["process_resident_memory_bytes"] == pytest.approx(mine.memory_info().rss, rel=0.2)
    times = os.times()
    assert found["process_cpu_seconds"] == pytest.approx(times.user + times.system, abs=1)
