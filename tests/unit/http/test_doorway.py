"""门厅：一个地址占几条，谁先让位。"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_network

import pytest

from meeting_push.http.doorway import DoorLimits, Doorway
from meeting_push.limits.rate import TrustedProxies
from tests.support.doors import door


class Loop:
    """``turn`` 圈之后、``now`` 时刻的事件循环。"""

    def __init__(self) -> None:
        self.now = 0.0
        self._soon: list[Callable[[], None]] = []

    def time(self) -> float:
        return self.now

    def call_soon(self, callback: Callable[[], None], /) -> None:
        self._soon.append(callback)

    def turn(self) -> None:
        soon, self._soon = self._soon, []
        for callback in soon:
            callback()


class Guest:
    """``socket`` 是它的描述符号码。"""

    def __init__(self, number: int = 9) -> None:
        self.number = number
        self.evicted = False

    def evict(self) -> None:
        self.evicted = True

    def get_extra_info(self, _name: str) -> Guest:
        return self

    def fileno(self) -> int:
        return self.number


def pass_turns(doorway: Doorway, loop: Loop) -> None:
    """过几圈；有新来的才数。"""
    for _ in range(4):
        passing = Guest()
        doorway.arrive(passing, "10.9.9.9", loop)
        doorway.busy(passing)
        loop.turn()


def test_a6_the_silent_of_one_address_are_bounded() -> None:
    """A6 的同类：一个地址的、一声不响的连接有限；请走的是等得最久的，别的地址不受影响。"""
    doorway = door(DoorLimits(per_address=2))
    silent, other = [Guest() for _ in range(5)], Guest()
    loop = Loop()
    doorway.arrive(other, "10.0.0.2", loop)
    for guest in silent:
        doorway.arrive(guest, "10.0.0.1", loop)
        loop.now += 10
        pass_turns(doorway, loop)
    assert [guest.evicted for guest in silent] == [True, True, True, False, False]
    assert not other.evicted
    assert doorway.turned_away["evicted"] == 3


def test_a_whole_company_may_arrive_at_once() -> None:
    """同一圈来的还没有轮到读，多久也不算一声不响；说了话的也不算。"""
    doorway = door(DoorLimits(per_address=2))
    loop, crowd = Loop(), [Guest() for _ in range(100)]
    for guest in crowd:
        doorway.arrive(guest, "2001:db8::1", loop)
    loop.now = 5
    loop.turn()
    doorway.arrive(Guest(), "2001:db8::2", loop)
    for guest in crowd:
        doorway.busy(guest)
    pass_turns(doorway, loop)
    doorway.arrive(Guest(), "2001:db8::2", loop)
    assert not any(guest.evicted for guest in crowd)


@pytest.mark.parametrize("address", ["10.0.0.1", "::ffff:10.0.0.1"])
def test_an_address_has_so_many_connections(address: str) -> None:
    """A6、A7：满了的拒绝，走一条来一条；IPv4 写成哪样都是同一个地址。"""
    doorway = door(DoorLimits(per_address=2))
    leave = doorway.enter("10.0.0.1")
    assert leave is not None
    assert doorway.enter(address) is not None
    assert doorway.enter(address) is None
    leave()
    assert doorway.enter(address) is not None


def test_a_trusted_proxy_connects_for_others() -> None:
    proxies = TrustedProxies([ip_network("10.0.0.0/8")])
    doorway = door(DoorLimits(per_address=1), proxies)
    assert all(doorway.enter("10.0.0.1") for _ in range(9))


def test_b6_who_waits_longest_gives_way_when_descriptors_run_short() -> None:
    """B6：号码到了上限，闲得最久的先走；新来的只得探针，留着的不被占满。"""
    doorway = door(DoorLimits.of(0, 100))
    idle, speaking = [Guest() for _ in range(10)], Guest()
    for guest in (*idle, speaking):
        doorway.wait(guest)
    doorway.busy(speaking)
    assert not doorway.crowded(Guest(74))
    assert doorway.crowded(Guest(75))
    assert [guest.evicted for guest in idle] == [True] * 8 + [False] * 2
    assert not speaking.evicted
    assert not doorway.walled(Guest(86))
    assert doorway.walled(Guest(87))
