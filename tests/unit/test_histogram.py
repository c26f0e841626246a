"""格子固定的直方图。"""

from __future__ import annotations

from meeting_push.histogram import Histogram


def test_a_value_on_a_bound_is_within_it() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (1.0, 1.5, 2.0, 2.5):
        histogram.record(value)
    assert histogram.cumulative() == [1, 3, 4]
    assert histogram.total == 7.0
