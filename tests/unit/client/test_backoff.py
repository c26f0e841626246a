"""退避：全抖动、指数、封顶。"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meeting_push.client.endpoint import Backoff

fractions = st.floats(0, 1, exclude_max=True)


@given(st.floats(0.001, 10), st.floats(0.001, 100), st.lists(fractions, min_size=1, max_size=80))
def test_delay_is_the_random_share_of_a_doubling_capped_ceiling(
    base: float, cap: float, randoms: list[float]
) -> None:
    values = iter(randoms)
    backoff = Backoff(base, cap, lambda: next(values))
    for attempt, fraction in enumerate(randoms):
        assert backoff.next_delay() == fraction * min(cap, base * 2.0 ** min(attempt, 32))


def test_lesson_1_the_first_retry_is_jittered_too() -> None:
    assert Backoff(1, 60, lambda: 0.25).next_delay() == 0.25


def test_reset_starts_over() -> None:
    backoff = Backoff(1, 60, lambda: 0.5)
    first = backoff.next_delay()
    backoff.next_delay()
    backoff.reset()
    assert backoff.next_delay() == first


def test_a_server_given_window_does_not_count_as_a_failure() -> None:
    backoff = Backoff(1, 60, lambda: 0.5)
    assert backoff.within(8) == 4
    assert backoff.next_delay() == 0.5


def test_a_lower_cap_of_one_wait_does_not_lengthen_the_later_ones() -> None:
    backoff = Backoff(1, 60, lambda: 0.5)
    assert [backoff.next_delay(5) for _ in range(6)] == [0.5, 1, 2, 2.5, 2.5, 2.5]
    assert [backoff.next_delay() for _ in range(2)] == [4, 8]


def test_the_cap_of_one_wait_never_raises_the_usual_one() -> None:
    assert Backoff(10, 3, lambda: 0.5).next_delay(5) == 1.5
