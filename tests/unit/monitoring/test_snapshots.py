"""各进程的指标合成一个：加的加，分的分，同一样东西只听最新的。"""

from __future__ import annotations

from math import inf

import pytest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.parser import text_string_to_metric_families

from meeting_push.histogram import Histogram
from meeting_push.monitoring.metrics import HistogramSample, Metrics, Sample
from meeting_push.monitoring.snapshots import Family, Point, Snapshot, merged, only_counted, text


def part(process: str, at: float | None, *families: Family) -> Snapshot:
    return Snapshot(f"life-{process}", process, at, list(families))


def counter(value: float, **labels: str) -> Family:
    return Family("x", "counter", "x", points=[Point("_total", tuple(labels.items()), value)])


def shared(value: float) -> Family:
    return Family("s", "gauge", "s", shared=True, points=[Point("", (), value)])


def values(families: list[Family], name: str) -> dict[tuple[tuple[str, str], ...], float]:
    [family] = [one for one in families if one.name == name]
    return {labels: value for _, labels, value in family.points}


def test_counters_of_the_same_labels_are_added() -> None:
    found = merged([part("0", 1, counter(2, code="a")), part("1", 2, counter(3, code="a"))])
    assert values(found, "x") == {(("code", "a"),): 5}


def test_what_everybody_looks_at_is_told_by_the_newest() -> None:
    for first, second in ((1.0, 2.0), (2.0, 1.0)):
        found = merged([part("0", first, shared(10)), part("1", second, shared(20))])
        assert values(found, "s") == {(): 20 if second > first else 10}


def test_the_order_of_adding_does_not_make_a_counter_smaller() -> None:
    def told(*each: float) -> bytes:
        parts = [part(str(n), None, counter(value)) for n, value in enumerate(each)]
        return text(merged(parts))

    assert 0.1 + 0.2 + 0.3 > 0.3 + 0.2 + 0.1
    assert told(0.1, 0.2, 0.3) == told(0.3, 0.2, 0.1)


def test_the_dead_leave_their_counts_not_their_gauges() -> None:
    families = only_counted(merged([part("0", 1, counter(2), shared(1))]))
    assert [family.name for family in families] == ["x"]


def test_the_format_is_called_what_prometheus_calls_it() -> None:
    assert Metrics.content_type == CONTENT_TYPE_LATEST


def test_a_histogram_survives_the_text_format() -> None:
    metrics, histogram = Metrics(), Histogram((0.1, 1.0))
    for value in (0.05, 0.1, 0.5, 7.0):
        histogram.record(value)
    metrics.add_histograms(lambda: [HistogramSample("x_seconds", "x", histogram, {"a": "b"})])
    found = {one.name: one for one in text_string_to_metric_families(metrics.render().decode())}
    buckets = {
        sample.labels.get("le"): sample.value
        for sample in found["meeting_push_x_seconds"].samples
        if sample.name.endswith("_bucket")
    }
    assert buckets == {"0.1": 2, "1.0": 3, "+Inf": 4}


def test_a_gauge_of_a_process_says_whose_it_is() -> None:
    metrics = Metrics()
    metrics.add(lambda: [Sample("x", "gauge", "x", 1, scope="process")])
    assert b'meeting_push_x{process="0"} 1.0' in metrics.render()


def test_the_text_of_a_counter_ends_in_total() -> None:
    assert b"\nx_total 1.0\n" in text([counter(1)])


@pytest.mark.parametrize("value", ['a"b', "a\\b", "a\nb", "/api/v1/users/{user_id}", "", "中文"])
def test_any_label_survives_the_text_format(value: str) -> None:
    [family] = text_string_to_metric_families(text([counter(1, route=value)]).decode())
    assert family.samples[0].labels == {"route": value}


@pytest.mark.parametrize("value", [0.0, 1e-6, 12345678901.0, 2.5e16, inf])
def test_any_number_survives_the_text_format(value: float) -> None:
    [family] = text_string_to_metric_families(text([shared(value)]).decode())
    assert family.samples[0].value == value
