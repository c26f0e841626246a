"""等的是走着的时间：停住过的不算，真没有希望的也等得到头。"""

from __future__ import annotations

import pytest

from meeting_push_bench.chaos.patience import Patience


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("meeting_push_bench.chaos.patience.monotonic", lambda: now[0])
    return now


def test_it_ends_although_nothing_ever_stood_still(clock: list[float]) -> None:
    waiting = Patience(10)
    looks = 0
    while not waiting.over():
        clock[0] += 1
        looks += 1
    assert looks == 10


def test_a_machine_that_stood_still_for_minutes_costs_one_step(clock: list[float]) -> None:
    waiting = Patience(10, step_s=5)
    clock[0] += 120
    assert not waiting.over()
    clock[0] += 4.9
    assert not waiting.over()
    clock[0] += 0.2
    assert waiting.over()
