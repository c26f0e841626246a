"""何时宣布：上线立刻，离线等一等，反复的只报最后的样子（LESSONS 8）。"""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from meeting_push.model import PresenceStatus
from meeting_push.presence.watch import ANNOUNCE_GAP_MS, Debounce

GRACE_MS = 5_000
STATES: st.SearchStrategy[PresenceStatus | None] = st.sampled_from([None, "active", "busy"])


def test_online_is_due_at_once() -> None:
    one = Debounce(None, GRACE_MS)
    one.note("active", 10)
    assert one.due == 10


def test_offline_is_due_after_the_grace() -> None:
    one = Debounce("active", GRACE_MS)
    one.note(None, 10)
    assert one.due == 10 + GRACE_MS


def test_coming_back_within_the_grace_announces_nothing() -> None:
    one = Debounce("active", GRACE_MS)
    one.note(None, 10)
    one.note("active", 20)
    assert one.due is None


def test_coming_back_with_another_status_announces_the_status_only() -> None:
    one = Debounce("active", GRACE_MS)
    one.note(None, 10)
    one.note("busy", 20)
    assert one.due == 20
    assert one.announce(20) == "busy"


def test_the_grace_starts_anew_with_each_departure() -> None:
    one = Debounce("active", GRACE_MS)
    for now in (0, 3_000, 6_000):
        one.note(None, now)
        one.note("active", now + 1)
    one.note(None, 9_000)
    assert one.due == 9_000 + GRACE_MS


def test_a_second_change_waits_for_the_gap() -> None:
    one = Debounce("active", GRACE_MS)
    one.note("busy", 100)
    one.announce(100)
    one.note("away", 101)
    assert one.due == 100 + ANNOUNCE_GAP_MS


@given(
    st.integers(0, 3_000),
    st.lists(st.tuples(st.integers(0, 4_000), STATES), max_size=40),
)
def test_the_last_state_is_always_told_and_never_in_a_flood(
    grace_ms: int, changes: list[tuple[int, PresenceStatus | None]]
) -> None:
    """假时钟：到点就宣布；最后没有要宣布的，且宣布过的就是此刻的。"""
    one, now = Debounce(None, grace_ms), 0
    told: list[tuple[int, PresenceStatus | None]] = []

    def settle(until: int) -> None:
        while one.due is not None and one.due <= until:
            at = one.due
            told.append((at, one.announce(at)))

    for wait, state in changes:
        now += wait
        settle(now)
        one.note(state, now)
        settle(now)
    settle(now + grace_ms + ANNOUNCE_GAP_MS)
    assert one.due is None
    assert one.announced == one.current == (changes[-1][1] if changes else None)
    states = [None, *(state for _, state in told)]
    assert all(a != b for a, b in pairwise(states))
    times = [at for at, _ in told]
    assert all(b - a >= ANNOUNCE_GAP_MS for a, b in pairwise(times))
