"""设备的位置：只说真的收到了的。"""

from __future__ import annotations

from meeting_push_bench.chaos.owner import Position


def test_a_flushed_device_has_everything_up_to_the_welcome() -> None:
    position = Position()
    position.opened("e", 10, 2)
    position.received(9)
    assert (position.flushed, position.floor) == (False, 0)
    position.received(4)
    assert (position.flushed, position.floor) == (True, 10)


def test_an_empty_mailbox_is_flushed_at_once() -> None:
    position = Position()
    position.opened("e", 10, 0)
    assert (position.flushed, position.floor) == (True, 10)


def test_live_frames_advance_it_without_a_hole() -> None:
    position = Position()
    position.opened("e", 10, 0)
    position.received(12)
    assert position.floor == 10
    position.received(11)
    assert position.floor == 12


def test_an_unfinished_flush_leaves_only_what_is_contiguous() -> None:
    position = Position()
    position.opened("e", 3, 0)
    position.opened("e", 9, 5)
    position.received(8)  # 紧急的先来
    position.received(4)
    assert (position.flushed, position.floor) == (False, 4)


def test_it_survives_a_reconnect() -> None:
    position = Position()
    position.opened("e", 3, 0)
    position.received(5)
    position.opened("e", 5, 1)
    assert position.floor == 3
    position.received(4)
    assert position.floor == 5


def test_a_new_epoch_forgets_it_and_stops_upto_on_this_connection() -> None:
    position = Position()
    position.opened("e", 10, 0)
    position.restart("f")
    position.received(1)
    assert (position.flushed, position.floor) == (False, 1)


def test_a_resync_in_the_same_epoch_takes_the_position_back() -> None:
    """换上来的主缺了一段：11 与 12 要再发一遍，给别的消息。"""
    position = Position()
    position.opened("e", 12, 0)
    position.opened("e", 10, 0)
    position.resynced("e", 10)
    assert (position.flushed, position.floor) == (True, 10)
    position.received(11)
    assert position.floor == 11
