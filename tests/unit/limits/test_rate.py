"""拒绝的步调：头几百次立即，再撞就等；别人不受影响，等着的有限。"""

from __future__ import annotations

from meeting_push.limits.rate import (
    CLOSINGS_BURST,
    MOST_REFUSALS_WAITING,
    REFUSAL_DELAY_S,
    REFUSALS_BURST,
    REFUSALS_PER_S,
    RefusalPace,
)


def test_who_keeps_knocking_waits_and_nobody_else_does() -> None:
    """A6、A11、A13：一再被拒绝的晚些才听到；别的键照样立即。"""
    pace = RefusalPace()
    delays = [pace.delay_s("flood", 0) for _ in range(REFUSALS_BURST + 1)]
    assert set(delays[:REFUSALS_BURST]) == {0}
    assert REFUSAL_DELAY_S / 2 < delays[REFUSALS_BURST] <= REFUSAL_DELAY_S
    assert pace.delay_s("bob", 0) == 0


def test_who_rests_is_forgiven() -> None:
    pace = RefusalPace()
    for _ in range(REFUSALS_BURST + 1):
        pace.delay_s("flood", 0)
    later = REFUSALS_BURST / REFUSALS_PER_S
    assert [pace.delay_s("flood", later) for _ in range(REFUSALS_BURST)] == [0] * REFUSALS_BURST


def test_those_who_wait_are_bounded() -> None:
    """CON-1：等着的占着描述符：太多了就不再让人等。"""
    pace = RefusalPace(burst=1)
    delays = [pace.delay_s("flood", 0) for _ in range(2 * MOST_REFUSALS_WAITING)]
    assert sum(delay > 0 for delay in delays) == MOST_REFUSALS_WAITING
    assert pace.delay_s("flood", REFUSAL_DELAY_S) == 0
    assert pace.delay_s("flood", REFUSAL_DELAY_S) > 0


def test_who_came_together_does_not_come_again_together() -> None:
    """A11：五百条一起被拒绝的，不会几秒之后又一起来。"""
    pace = RefusalPace(burst=1)
    delays = [pace.delay_s("flood", 0) for _ in range(501)][1:]
    slots = [int(delay * 10) for delay in delays]
    assert max(map(slots.count, slots)) <= 2 * len(delays) / (REFUSAL_DELAY_S * 5)


def test_a11_a_refused_socket_waits_sooner_and_longer_than_a_refused_request() -> None:
    """A11: 被拒绝的一台设备花一次握手；几百台一起来，不必三百台之后才让它等。"""
    pace = RefusalPace()
    delays = [pace.closing_delay_s("flood", 0) for _ in range(CLOSINGS_BURST + 1)]
    assert set(delays[:CLOSINGS_BURST]) == {0}
    assert REFUSAL_DELAY_S < delays[CLOSINGS_BURST] <= 2 * REFUSAL_DELAY_S
    assert pace.delay_s("flood", 0) == pace.closing_delay_s("bob", 0) == 0


def test_the_answer_stays_within_five_seconds() -> None:
    """contract：说出来，对方先走，都在五秒里。"""
    assert REFUSAL_DELAY_S < 5
