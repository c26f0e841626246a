"""延迟的账：量什么、不量什么、怎样合并。"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from ulid import ULID

from meeting_push.model import Ack
from meeting_push.monitoring.latency import (
    LATE_MS,
    AckLatency,
    LatencyHistogram,
    PushLatency,
    accepted_ms,
)
from meeting_push.monitoring.metrics import Metrics, Sample
from meeting_push.monitoring.report import RECENT_MS, Reporter, add_up
from meeting_push.node_identity import NodeIdentity
from tests.support.stand_ins import AckSink

NOW = 1_800_000_000_000


def histogram(*values: int) -> LatencyHistogram:
    one = LatencyHistogram()
    for value in values:
        one.record(value)
    return one


def frame(message_id: str, attempt: int = 0) -> bytes:
    return (
        f'{{"type":"new_message","seq":1,"attempt":{attempt},"message_id":"{message_id}"}}'.encode()
    )


def accepted_at(ms: int) -> str:
    return str(ULID.from_timestamp(ms))


def test_the_id_says_when_it_was_accepted() -> None:
    assert accepted_ms(accepted_at(NOW)) == NOW


@pytest.mark.parametrize("foreign", ["z" * 26, "!" * 26])
def test_a_foreign_id_says_nothing(foreign: str) -> None:
    assert accepted_ms(foreign) is None


def test_a_push_is_measured_from_acceptance() -> None:
    push, message_id = PushLatency(), accepted_at(NOW - 7)
    push(frame(message_id), (1, message_id), NOW)
    assert push.histogram.counts == histogram(7).counts


def test_a_retry_is_not_a_slow_push() -> None:
    push, message_id = PushLatency(), accepted_at(NOW - 60_000)
    push(frame(message_id, attempt=1), (1, message_id), NOW)
    assert push.histogram.count == 0


def test_a_scheduled_message_is_counted_apart() -> None:
    push, message_id = PushLatency(), accepted_at(NOW - LATE_MS - 1)
    push(frame(message_id), (1, message_id), NOW)
    assert (push.histogram.count, push.late) == (0, 1)


def test_acks_pass_through_and_one_each_millisecond_is_measured() -> None:
    sink = AckSink()
    ack = AckLatency(sink)
    for acked_at in (NOW, NOW, NOW + 1):
        ack.record(7, [Ack("m", 1, NOW - 5, acked_at)])
    assert len(sink.recorded) == 3
    assert ack.histogram.counts == histogram(5, 6).counts


def test_what_is_new_since_then() -> None:
    earlier = histogram(1, 5)
    assert histogram(1, 5, 5, 9).since(earlier).counts == histogram(5, 9).counts


def test_a_copy_does_not_follow() -> None:
    one = histogram(1)
    copy = one.copy()
    one.record(2)
    assert copy.counts == histogram(1).counts


def test_how_many_are_at_most() -> None:
    assert histogram(1, 2, 2, 50, 1_000).at_most([0, 1, 2, 10, 100]) == [0, 1, 3, 3, 4]


def test_the_sum_of_all() -> None:
    assert histogram(1, 2, 100).total() == 103


class Source:
    """一个计数器与一个带标签的，外加拨得动的钟。"""

    def __init__(self) -> None:
        self.now = NOW
        self.count = 0
        self.latency = LatencyHistogram()
        metrics = Metrics()
        metrics.add(self.samples)
        metrics.add_latency("push", "…", self.latency)
        self.reporter = Reporter(metrics, NodeIdentity("n"), "all", "1", clock=lambda: self.now)

    def samples(self) -> Iterator[Sample]:
        yield Sample("acks", "counter", "…", self.count)
        yield Sample("closes", "counter", "…", self.count, {"code": "4000"})
        yield Sample("connections", "gauge", "…", 5)


def test_rates_are_the_difference_of_two_snapshots() -> None:
    source = Source()
    source.count = 100
    source.reporter.tick()
    source.now += 5_000
    source.count = 150
    report = source.reporter.report()
    assert report.per_s == {"acks": {"": 10}, "closes": {"4000": 10}}
    assert report.totals["acks"] == {"": 150}
    assert report.gauges == {"connections": {"": 5}}


def test_a_snapshot_just_taken_is_too_close_to_compare_with() -> None:
    source = Source()
    source.now += 10_000
    source.count = 100
    source.reporter.tick()
    source.now += 1
    assert source.reporter.report().per_s["acks"][""] == pytest.approx(10, rel=0.01)


def test_latency_is_of_the_last_minute() -> None:
    source = Source()
    source.latency.record(100)
    for _ in range(RECENT_MS // 5_000 + 1):
        source.now += 5_000
        source.reporter.tick()
    source.latency.record(3)
    assert source.reporter.report().latency["push"].counts == histogram(3).counts


def test_nodes_add_up() -> None:
    assert add_up([{"a": {"": 1, "x": 2}}, {"a": {"x": 3}, "b": {"": 4}}]) == {
        "a": {"": 1, "x": 5},
        "b": {"": 4},
    }
