"""拒绝的步调：头几百次立即，再撞就等；别人不受影响，等着的有限。"""

from __future__ import annotations

from meeting_push.limits.rate import (
    CLOSINGS_BURST,
    CLOSINGS_PER_S,
    MOST_REFUSALS_WAITING,
    REFUSAL_DELAY_S,
    REFUSALS_BURST,
    REFUSALS_PER_S,
    RefusalPace,
    Spacing,
    WorkPace,
)


def test_who_keeps_knocking_waits_and_nobody_else_does() -> None:
    """A6、A11、A13：一再被拒绝的晚些才听到；别的键照样立即。"""
    pace = RefusalPace()
    delays = [pace.delay_s("flood", 0) for _ in range(REFUSALS_BURST + 1)]
    assert set(delays[:REFUSALS_BURST]) == {0}
    assert REFUSAL_DELAY_S / 2 < delays[REFUSALS_BURST] <= REFUSAL_DELAY_S
    assert pace.delay_s("bob", 0) == 0


def test_a14_a_dear_refusal_counts_for_several() -> None:
    """A14: 一次抵十次的，一阵里只有十分之一立即听到；别的照样扣同一本账。"""
    pace = RefusalPace()
    delays = [pace.delay_s("flood", 0, 10) for _ in range(REFUSALS_BURST // 10 + 1)]
    assert [delay > 0 for delay in delays] == [False] * (REFUSALS_BURST // 10) + [True]
    assert pace.delay_s("flood", 0) > 0


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


def test_an_upgrade_that_is_doubted_waits_in_the_line_of_its_key() -> None:
    """KEYS：一个键一队，别的键的第一个不等；队再长也在五秒里轮到。"""
    pace = RefusalPace()
    delays = [pace.upgrade_delay_s("flood", 0) for _ in range(200)]
    assert delays[:3] == [0, 1 / CLOSINGS_PER_S, 2 / CLOSINGS_PER_S]
    assert max(delays) == REFUSAL_DELAY_S
    assert pace.upgrade_delay_s("bob", 0) == 0


def test_a_line_is_over_when_its_last_was_served() -> None:
    line = Spacing(10, 4)
    assert [round(line.wait_s("a", 0), 3) for _ in range(3)] == [0, 0.1, 0.2]
    assert line.wait_s("a", 0.31) == 0


def test_lines_that_are_long_over_are_forgotten() -> None:
    line = Spacing(1, 4, max_keys=2)
    for key in ("a", "b", "c"):
        line.wait_s(key, 0)
    assert [line.wait_s(key, 0) for key in ("a", "c")] == [0, 1]


def test_the_answer_stays_within_five_seconds() -> None:
    """contract：说出来，对方先走，都在五秒里。"""
    assert REFUSAL_DELAY_S < 5


def test_who_works_much_has_his_share_of_the_time_and_no_more() -> None:
    pace, now, worked = WorkPace(rest=3, credit_s=0.2), 0.0, 0.0
    while now < 10:
        now += pace.wait_s("flood", now)
        pace.took("flood", 0.01)
        worked += 0.01
        now += 0.01
    assert 0.2 < worked / now < 0.3
    assert pace.wait_s("bob", now) == 0


def test_many_that_come_at_once_start_one_by_one() -> None:
    pace = WorkPace(rest=3, credit_s=0.0)
    waits = [pace.wait_s("flood", 0.0) for _ in range(50)]
    assert len(set(waits)) == len(waits)


def test_what_waits_for_somebody_is_not_taken_for_work() -> None:
    pace = WorkPace(rest=3, credit_s=0.0)
    for _ in range(50):
        pace.took("slow", 60.0)
    pace.wait_s("slow", 100.0)
    assert pace.wait_s("slow", 100.0) < 0.1


def test_the_paces_that_are_remembered_are_bounded() -> None:
    pace = WorkPace(rest=3, credit_s=0.0, max_keys=10)
    for key in range(1_000):
        pace.wait_s(key, 0.0)
    assert len(pace._paces) == 10
