"""重试的时刻表：纯的，假的时间。"""

from __future__ import annotations

from typing import ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from meeting_push.protocol.sent import MAX_OVERDUE, Fresh, Overdue, RetryLadder

DELAYS = (60, 300, 900)


def ladder() -> RetryLadder:
    return RetryLadder(DELAYS, 1_000)


def test_nothing_is_overdue_before_its_time() -> None:
    fresh: Fresh = {"a": (1, 0)}
    assert ladder().overdue(fresh, 59) == []
    assert fresh == {"a": (1, 0)}


def test_each_attempt_waits_its_own_delay_and_the_last_one_once_more() -> None:
    steps, fresh, now = ladder(), {"a": (1, 0)}, 0
    found: list[tuple[int, Overdue]] = []
    while len(found) < 4:
        now = steps.next_overdue(fresh, now)
        found += [(now, each) for each in steps.overdue(fresh, now)]
    assert found == [
        (60, Overdue("a", 0)),
        (360, Overdue("a", 1)),
        (1260, Overdue("a", 2)),
        (2160, Overdue("a", 3)),
    ]


def test_a_retry_that_is_pushed_waits_from_its_push() -> None:
    steps, fresh = ladder(), {"a": (1, 0)}
    steps.overdue(fresh, 60)
    steps.put("a", 1, (1, 65), 65)
    assert steps.next_overdue(fresh, 65) == 125  # 首推随时可能发生
    assert steps.overdue(fresh, 364) == []
    assert steps.overdue(fresh, 365) == [Overdue("a", 1)]


def test_what_is_acked_is_never_overdue() -> None:
    steps, fresh = ladder(), {"a": (7, 0)}
    steps.overdue(fresh, 60)
    assert steps.pop("a") == (7, 0)
    assert steps.overdue(fresh, 10_000) == []


def test_a_settled_claim_that_is_gone_is_forgotten() -> None:
    steps, fresh = ladder(), {"a": (1, 0)}
    steps.overdue(fresh, 60)
    steps.settle("a", None, 61)
    assert len(steps) == 0


def test_a_settled_claim_takes_the_count_others_have_reached() -> None:
    steps, fresh = ladder(), {"a": (1, 0)}
    steps.overdue(fresh, 60)
    steps.settle("a", 3, 61)
    assert steps.overdue(fresh, 960) == []
    assert steps.overdue(fresh, 961) == [Overdue("a", 3)]


def test_a_claim_that_settles_after_the_ack_changes_nothing() -> None:
    steps, fresh = ladder(), {"a": (1, 0)}
    steps.overdue(fresh, 60)
    steps.pop("a")
    steps.settle("a", 1, 61)
    assert len(steps) == 0


def test_a_sweep_hands_over_a_bounded_number_and_the_rest_next_time() -> None:
    steps = ladder()
    fresh: Fresh = {str(n): (n, 0) for n in range(MAX_OVERDUE + 5)}
    assert len(steps.overdue(fresh, 60)) == MAX_OVERDUE
    assert steps.next_overdue(fresh, 60) == 60
    assert len(steps.overdue(fresh, 60)) == 5


def test_an_upto_covers_the_late_ones() -> None:
    steps, fresh = ladder(), {"a": (1, 0), "b": (2, 0)}
    steps.overdue(fresh, 60)
    assert list(steps.pop_upto(1)) == [("a", 1, 0)]
    assert len(steps) == 1


def test_a_full_ladder_starts_over() -> None:
    steps = RetryLadder(DELAYS, 3)
    for number in range(10):
        steps.put(str(number), 1, (number, 0), 0)
    assert len(steps) <= 3


class LadderMachine(RuleBasedStateMachine):
    """与一个笨办法对照：每条记着次数与起点，每次全部看一遍。"""

    ids: ClassVar = st.integers(0, 9).map(str)

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.fresh: Fresh = {}
        self.ladder = ladder()
        self.model: dict[str, tuple[int, int]] = {}

    def wait(self, attempt: int) -> int:
        return DELAYS[min(attempt, 2)]

    @rule(message_id=ids)
    def push(self, message_id: str) -> None:
        if message_id not in self.model:
            self.fresh[message_id] = (1, self.now)
            self.model[message_id] = (0, self.now)

    @rule(message_id=ids, attempt=st.integers(1, 3))
    def push_again(self, message_id: str, attempt: int) -> None:
        if message_id in self.model:
            self.fresh.pop(message_id, None)
            self.ladder.put(message_id, attempt, (1, self.now), self.now)
            self.model[message_id] = (attempt, self.now)

    @rule(message_id=ids)
    def ack(self, message_id: str) -> None:
        found = self.fresh.pop(message_id, None) or self.ladder.pop(message_id)
        assert (found is not None) is (self.model.pop(message_id, None) is not None)

    @rule(ms=st.integers(0, 1_000))
    def pass_time(self, ms: int) -> None:
        self.now += ms

    @rule()
    def sweep(self) -> None:
        found = self.ladder.overdue(self.fresh, self.now)
        expected = {
            Overdue(message_id, attempt)
            for message_id, (attempt, since) in self.model.items()
            if self.now - since >= self.wait(attempt)
        }
        assert set(found) == expected
        assert len(found) == len(expected)
        for message_id, attempt in found:
            self.model[message_id] = (min(attempt + 1, 3), self.now)

    @invariant()
    def nothing_is_lost(self) -> None:
        assert len(self.fresh) + len(self.ladder) == len(self.model)

    @invariant()
    def the_next_look_is_never_too_late(self) -> None:
        due = [since + self.wait(attempt) for attempt, since in self.model.values()]
        assert self.ladder.next_overdue(self.fresh, self.now) <= min(
            due, default=self.now + DELAYS[0]
        )


TestLadderMachine = LadderMachine.TestCase
