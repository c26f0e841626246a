"""E2：什么时候算“只有我够不到 Redis”。"""

from __future__ import annotations

import pytest

from meeting_push.node.fleet_membership import BLIND_S, WELL_FOR_S, CutOff

AFTER_S = 10.0


class Node:
    """拨得动的钟；``events`` 是交出、收回的次序。"""

    def __init__(self) -> None:
        self.now = 100.0
        self.hears = False
        self.well: bool | None = True
        self.events: list[str] = []
        self.cut_off = CutOff(
            hears=lambda: self.hears,
            well_elsewhere=lambda: self.well,
            after_s=AFTER_S,
            give_up=lambda: self.events.append("give_up"),
            recover=lambda: self.events.append("recover"),
            clock=lambda: self.now,
        )

    def live(self, seconds: float) -> list[str]:
        """过这么久，每半秒看一眼。"""
        for _ in range(int(seconds * 2)):
            self.cut_off.look()
            self.now += 0.5
        return self.events


@pytest.fixture
def node() -> Node:
    return Node()


def test_alone_for_long_enough_is_cut_off(node: Node) -> None:
    assert node.live(AFTER_S - 1) == []
    assert node.live(2) == ["give_up"]


def test_it_gives_up_once_and_recovers_once(node: Node) -> None:
    node.live(AFTER_S * 3)
    node.hears = True
    assert node.live(5) == ["give_up", "recover"]


def test_nobody_is_well_is_not_alone(node: Node) -> None:
    node.well = False
    assert node.live(BLIND_S * 3) == []


def test_who_comes_back_a_moment_earlier_does_not_count(node: Node) -> None:
    """Redis 刚回来时，先连上的不该让别人赶走客户端。"""
    node.well = False
    node.live(AFTER_S * 3)
    node.well = True
    assert node.live(WELL_FOR_S - 1) == []
    node.hears = True
    assert node.live(AFTER_S) == []


def test_without_sql_either_only_time_tells(node: Node) -> None:
    node.well = None
    assert node.live(BLIND_S - 1) == []
    assert node.live(2) == ["give_up"]
