"""出门的事件的指标：每个接收者一组；等着的、死信只有轮到送它的那个进程知道。"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from ..events.receiver_state import SenderFigures
from .metrics import Sample

#: 最早的等了这么久（秒），就算这个接收者不行。
STALE_S: Final = 600.0


def event_samples(receivers: Mapping[str, SenderFigures], rows: int) -> Iterator[Sample]:
    """``receivers``：标签 → 它的数；``rows``：这个进程写下的。"""
    if not receivers:
        return
    yield Sample("event_rows_written", "counter", "rows of events written with their facts", rows)
    for receiver, figures in receivers.items():
        label = {"receiver": receiver}
        yield from _totals(figures, label)
        yield from _now(figures, label)


def _totals(figures: SenderFigures, label: dict[str, str]) -> Iterator[Sample]:
    for name, text, value in (
        ("events_sent", "events the receiver took", figures.sent),
        ("events_send_failed", "events in attempts that failed", figures.failed),
        ("events_given_up", "events that became dead letters", figures.dead),
        ("events_forgotten", "old dead letters removed", figures.forgotten),
    ):
        yield Sample(name, "counter", text, value, label)


def _now(figures: SenderFigures, label: dict[str, str]) -> Iterator[Sample]:
    failing = figures.parked or figures.dead_waiting > 0 or figures.oldest_age_s > STALE_S
    for name, text, value in (
        ("events_waiting", "events that wait for the receiver", figures.waiting),
        ("events_dead_letters", "events given up, kept to be sent again", figures.dead_waiting),
        ("event_sender", "1 = this process sends to the receiver", int(figures.leads)),
        (
            "event_receiver_failing",
            "1 = it is gone, has dead letters, or the oldest waits for over 10 minutes",
            int(figures.leads and failing),
        ),
    ):
        yield Sample(name, "gauge", text, value, label)
    text = "age of the oldest event that waits"
    yield Sample("events_oldest_age_seconds", "gauge", text, figures.oldest_age_s, label)
