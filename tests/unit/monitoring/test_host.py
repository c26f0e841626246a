"""这台机器与这个进程用了多少。"""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from meeting_push.monitoring.host import Host
from meeting_push.monitoring.metrics import Sample
from meeting_push.monitoring.process_usage import open_files, process_usage


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
    mine, found = psutil.Process(), {one.name: one.value for one in process_usage()}
    assert found["process_start_time_seconds"] == pytest.approx(mine.create_time(), abs=2)
    assert found["process_resident_memory_bytes"] == pytest.approx(mine.memory_info().rss, rel=0.2)
    times = os.times()
    assert found["process_cpu_seconds"] == pytest.approx(times.user + times.system, abs=1)
