"""依赖不在的时候：说一次，然后隔一阵再说，带着次数。"""

from __future__ import annotations

from meeting_push.logs import RepeatedWarning
from tests.support.clocks import Monotonic


def test_the_first_is_said_at_once_and_the_next_only_after_a_while(log: list[str]) -> None:
    watch = Monotonic(100.0)
    warning = RepeatedWarning("redis_is_away", every_s=5, clock=watch)
    for _ in range(16):
        warning.say(code="redis_unavailable")
        watch.now += 0.5
    assert log == [
        "redis_is_away {'code': 'redis_unavailable'}",
        "redis_is_away {'code': 'redis_unavailable', 'repeated': 9}",
    ]


def test_after_a_quiet_while_it_is_a_first_again(log: list[str]) -> None:
    watch = Monotonic(100.0)
    warning = RepeatedWarning("redis_is_away", every_s=5, clock=watch)
    warning.say()
    watch.now += 1
    warning.say()  # 没有记下，也不该在一小时之后才算
    watch.now += 3_600
    warning.say()
    assert log == ["redis_is_away {}", "redis_is_away {}"]


def test_two_of_them_do_not_hide_each_other(log: list[str]) -> None:
    watch = Monotonic(100.0)
    RepeatedWarning("one", clock=watch).say()
    RepeatedWarning("other", clock=watch).say()
    assert log == ["one {}", "other {}"]
