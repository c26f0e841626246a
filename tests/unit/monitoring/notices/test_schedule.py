"""一个渠道的等候：攒、去重、限速、夜里攒着；什么都不丢，什么都只说一次。"""

from __future__ import annotations

from datetime import datetime, time
from typing import Any
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st

from meeting_push.monitoring.alerts.model import AlertState, Severity
from meeting_push.monitoring.notices import schedule
from meeting_push.monitoring.notices.channel import QuietHours
from meeting_push.monitoring.notices.schedule import Lane, Waiting
from tests.support.notices import alert, channel, resolved

ZONE = ZoneInfo("Asia/Shanghai")
NIGHT = QuietHours(time(22), time(7), ZONE, Severity.CRITICAL)
THREE = int(datetime(2026, 3, 10, 3, tzinfo=ZONE).timestamp() * 1000)
NOON = int(datetime(2026, 3, 10, 12, tzinfo=ZONE).timestamp() * 1000)


def a_lane(quiet: QuietHours | None = None, **given: Any) -> Lane:
    return Lane(channel("log://", **{"group_s": 10, **given}), quiet)


def take(lane: Lane, now: float, now_ms: int = NOON) -> list[tuple[str, AlertState]]:
    """到时的一份，当作说成了。"""
    if lane.due_in(now, now_ms) != 0:
        return []
    batch = lane.take(now, now_ms)
    lane.told(batch)
    lane.attempted(now)
    return [(one.alert.alert_id, one.alert.state) for one in batch]


def test_what_comes_within_a_group_is_told_together() -> None:
    lane = a_lane()
    lane.offer(alert("a"), 0)
    lane.offer(alert("b"), 9)
    assert lane.due_in(9, NOON) == 1
    assert [name for name, _ in take(lane, 10)] == ["a", "b"]
    assert lane.due_in(11, NOON) is None


def test_the_same_alert_is_told_once() -> None:
    lane = a_lane()
    for now in (0, 5, 11, 30):
        lane.offer(alert("a"), now)
        told = take(lane, now)
        assert told == ([("a", AlertState.FIRING)] if now == 11 else [])


def test_a_recovery_is_told_once_and_only_to_who_heard_of_it() -> None:
    lane = a_lane()
    lane.offer(resolved("unheard"), 0)
    lane.offer(alert("a"), 0)
    take(lane, 10)
    lane.offer(resolved("a"), 11)
    assert take(lane, 21) == [("a", AlertState.RESOLVED)]
    lane.offer(resolved("a"), 22)
    lane.offer(alert("a"), 22)
    assert lane.due_in(40, NOON) is None


def test_what_recovered_before_it_was_told_is_told_as_recovered() -> None:
    lane = a_lane()
    lane.offer(alert("a"), 0)
    lane.offer(resolved("a"), 3)
    assert take(lane, 10) == [("a", AlertState.RESOLVED)]


def test_a_recovery_while_the_alert_is_on_its_way_follows_it() -> None:
    lane = a_lane()
    lane.offer(alert("a"), 0)
    batch = lane.take(10, NOON)
    lane.offer(resolved("a"), 11)
    lane.offer(alert("a"), 11)
    lane.told(batch)
    assert take(lane, 21) == [("a", AlertState.RESOLVED)]


def test_when_the_way_failed_only_the_recovery_is_told() -> None:
    lane = a_lane()
    lane.offer(alert("a"), 0)
    batch = lane.take(10, NOON)
    lane.offer(resolved("a"), 11)
    lane.put_back(batch, 12, 5)
    assert take(lane, 30) == [("a", AlertState.RESOLVED)]


def test_what_is_handed_over_is_its_newest_state() -> None:
    lane = a_lane()
    lane.offer(alert("a"), 0)
    batch = lane.take(10, NOON)
    lane.offer(resolved("a"), 11)
    (given_over,) = lane.hand_over(batch)
    assert given_over.alert.state is AlertState.RESOLVED
    assert len(lane) == 0


def test_what_is_not_grave_enough_is_not_told_nor_its_recovery() -> None:
    lane = a_lane(min_severity="warning")
    lane.offer(alert("a", severity=Severity.INFO), 0)
    lane.offer(resolved("a", severity=Severity.INFO), 0)
    assert len(lane) == 0


def test_a_recovery_from_before_is_told_when_what_was_told_is_unknown() -> None:
    lane = a_lane()
    lane.offer(resolved("a"), 0, remembers=False)
    assert take(lane, 10) == [("a", AlertState.RESOLVED)]


def test_what_another_process_told_is_not_told_again_but_its_recovery_is() -> None:
    lane = a_lane()
    lane.remember("a", AlertState.FIRING)
    lane.offer(alert("a"), 0)
    assert len(lane) == 0
    lane.offer(resolved("a"), 0)
    assert take(lane, 10) == [("a", AlertState.RESOLVED)]


def test_what_waits_when_it_is_read_to_have_been_told_waits_no_longer() -> None:
    lane = a_lane()
    lane.offer(alert("a"), 0)
    lane.remember("a", AlertState.FIRING)
    assert lane.due_in(10, NOON) is None


def test_the_twenty_first_waits_and_is_merged() -> None:
    lane = a_lane(group_s=0, rate_per_min=20)
    for n in range(20):
        lane.offer(alert(f"a{n}"), n)
        assert len(take(lane, n)) == 1
    for n in range(20, 30):
        lane.offer(alert(f"a{n}"), n)
        assert take(lane, n) == []
    assert lane.due_in(30, NOON) == 30
    assert len(take(lane, 60)) == 10


def test_a_channel_that_failed_rests_and_what_comes_is_merged() -> None:
    lane = a_lane(group_s=0)
    lane.offer(alert("a"), 0)
    lane.put_back(lane.take(0, NOON), 0, 60)
    lane.offer(alert("b"), 30)
    assert lane.due_in(30, NOON) == 30
    assert [name for name, _ in take(lane, 60)] == ["a", "b"]


def test_at_night_the_grave_is_told_and_the_rest_is_a_digest_in_the_morning() -> None:
    lane = a_lane(NIGHT)
    lane.offer(alert("a"), 0)
    lane.offer(alert("b"), 100)
    lane.offer(alert("c", severity=Severity.CRITICAL), 200)
    assert take(lane, 210, THREE) == [("c", AlertState.FIRING)]
    assert take(lane, 300, THREE) == []
    assert [name for name, _ in take(lane, 400, NOON)] == ["a", "b"]


def test_a_clock_that_jumps_neither_loses_nor_delays_the_grave() -> None:
    lane = a_lane(NIGHT)
    lane.offer(alert("a", severity=Severity.CRITICAL), 0)
    assert lane.due_in(5, NOON - 10**12) == 5
    assert take(lane, 10, NOON + 10**12) == [("a", AlertState.FIRING)]


def test_while_it_is_quiet_the_clock_is_looked_at_every_minute() -> None:
    lane = a_lane(NIGHT)
    lane.offer(alert("a"), 0)
    assert lane.due_in(100, THREE) == 60


def test_what_recovered_while_it_was_silenced_is_forgotten() -> None:
    lane = a_lane()
    for name in ("a", "b", "c"):
        lane.offer(alert(name), 0)
    lane.put_off(lane.take(10, NOON)[:2], 70)
    lane.forget_over({"b"})
    assert [name for name, _ in take(lane, 80)] == ["b"]


def test_an_escalation_says_it_again() -> None:
    lane = a_lane()
    lane.offer(alert("a"), 0)
    take(lane, 10)
    lane.press(alert("a"), 20, is_escalation=True)
    assert take(lane, 30) == [("a", AlertState.FIRING)]


def test_there_is_an_end_to_what_waits(monkeypatch: Any) -> None:
    monkeypatch.setattr(schedule, "MOST_WAITING", 3)
    lane = a_lane()
    lane.offer(alert("over"), 0)
    lane.offer(resolved("over"), 0)
    for n in range(3):
        lane.offer(alert(f"a{n}"), 0)
    assert (len(lane), lane.dropped) == (3, 1)
    assert {name for name, _ in take(lane, 10)} == {"a0", "a1", "a2"}


events = st.lists(
    st.tuples(
        st.sampled_from("abcd"),
        st.sampled_from(["fire", "resolve", "take", "fail", "flight"]),
        st.floats(0, 20),
    ),
    max_size=40,
)


@given(events)
def test_whatever_happens_each_is_told_at_most_once_and_nothing_is_lost(
    happened: list[tuple[str, str, float]],
) -> None:
    lane = a_lane(rate_per_min=5)
    said: list[tuple[str, AlertState]] = []
    over: dict[str, AlertState] = {}
    now = 0.0
    flight: list[Waiting] = []
    for name, what, pause_s in happened:
        now += pause_s
        if what == "fire" and name not in over:
            over[name] = AlertState.FIRING
            lane.offer(alert(name), now)
        elif what == "resolve" and name in over:
            over[name] = AlertState.RESOLVED
            lane.offer(resolved(name), now)
        elif what == "flight" and not flight and lane.due_in(now, NOON) == 0:
            flight = lane.take(now, NOON)
        elif what == "fail" and flight:
            lane.put_back(flight, now, 5)
            flight = []
        elif what == "take" and flight:
            lane.told(flight)
            said += [(one.alert.alert_id, one.alert.state) for one in flight]
            flight = []
    if flight:
        lane.put_back(flight, now, 5)
    for _ in range(3):
        now += 120
        said += take(lane, now)
    assert len(said) == len(set(said))
    assert dict(said) == over
