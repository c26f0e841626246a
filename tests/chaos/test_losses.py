"""Sentinel 换主时丢了的：只放过真的丢了的那一段，别的照旧不放过。"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from meeting_push_bench.chaos.check import check
from meeting_push_bench.chaos.history import (
    AnyEvent,
    Faulted,
    Opened,
    Recovered,
    Switched,
    Unrecorded,
)
from meeting_push_bench.chaos.losses import TOLD_WITHIN_MS, Losses, redriven_by

from .story import EPOCH, Story

ANN = 1
NEW = "e2"


def broken(story: Story) -> set[str]:
    return set(check(story.end()).broken_rules())


def master_lost(story: Story, kind: str = "part_master") -> None:
    story.add(Faulted(at=story.now, kind=kind, target="redis", for_s=1))
    story.add(Recovered(at=story.now, kind=kind, target="redis", after_ms=10))


def asked(story: Story) -> None:
    """没有人要它换，自己换了主。"""
    story.add(Switched(at=story.now, to="redis-1"))


def nothing(story: Story) -> None:
    """没有换过主。"""


def push(story: Story, connection: int, message_id: str, seq: int) -> None:
    """不管账上是几，就以这个 seq 推。"""
    story.receive_raw(connection, story.push(message_id, seq))


def reused_seq(lose: Callable[[Story], None]) -> Story:
    """seq 1 发给了 a；切换之后又发给 b，随后换了 epoch，a 与 b 以新的 seq 再来。"""
    story = Story()
    phone = story.connect(ANN)
    first, second = story.send(ANN), story.send(ANN)
    lose(story)
    push(story, phone, first, 1)
    push(story, phone, second, 1)
    story.resync(phone, NEW, 1)
    for seq, message_id in ((2, first), (3, second)):
        push(story, phone, message_id, seq)
        story.ack(phone, message_id)
    return story


@pytest.mark.parametrize("lose", [master_lost, asked])
def test_a_seq_used_again_after_a_switch_is_made_good_by_a_new_epoch(
    lose: Callable[[Story], None],
) -> None:
    assert broken(reused_seq(lose)) == set()


def test_a_seq_used_again_without_a_switch_is_a_broken_promise() -> None:
    assert "duplicates" in broken(reused_seq(nothing))


def test_a_seq_used_again_and_no_new_epoch_is_a_broken_promise() -> None:
    story = Story()
    phone = story.connect(ANN)
    first, second = story.send(ANN), story.send(ANN)
    master_lost(story)
    push(story, phone, first, 1)
    push(story, phone, second, 1)
    story.ack(phone, first)
    story.ack(phone, second)
    assert "duplicates" in broken(story)


def test_a_hole_in_the_new_epoch_is_a_hole() -> None:
    story = reused_seq(master_lost)
    skipped, last = story.send(ANN), story.send(ANN)
    push(story, 1, last, 5)
    story.ack(1, skipped, last)
    assert "holes" in broken(story)


@pytest.mark.parametrize(("lose", "caught"), [(master_lost, False), (nothing, True)])
def test_what_redis_lost_was_not_removed_by_anybody(
    lose: Callable[[Story], None], caught: bool
) -> None:
    story = Story()
    phone = story.connect(ANN)
    message_id = story.send(ANN)
    lose(story)
    push(story, phone, message_id, 1)
    story.add(Unrecorded(at=story.now, user_id=ANN, message_ids=(message_id,)))
    story.resync(phone, NEW, 1)
    push(story, phone, message_id, 2)
    story.ack(phone, message_id)
    assert ("confirmation" in broken(story)) == caught


def test_a_new_epoch_long_after_a_switch_excuses_nothing() -> None:
    story = Story()
    phone = story.connect(ANN)
    master_lost(story)
    story.now += TOLD_WITHIN_MS + 1_000
    story.resync(phone, NEW, 0)
    assert Losses(story.events).abandoned == {}


def test_only_the_newest_epoch_is_believed() -> None:
    """旧的 epoch 晚到的一帧，不算又换了一次。"""
    story = Story()
    phone, tablet = story.connect(ANN), story.connect(ANN)
    master_lost(story)
    story.resync(phone, NEW, 0)
    late: AnyEvent = Opened(
        at=story.now, connection=tablet, epoch=EPOCH, seq=0, resumed=False, pending=0
    )
    story.add(late)
    losses = Losses(story.events)
    assert set(losses.abandoned) == {(ANN, EPOCH)}
    assert losses.renewed == {(ANN, NEW)}


def test_what_was_driven_again_is_summed_over_restarts() -> None:
    logs = {
        "worker-0": "x redrive_finished generation=2 messages=5\ny\n"
        "x redrive_finished generation=3 messages=8\n"
        "x redrive_finished generation=4 messages=2\n",
        "api-0": "nothing",
    }
    assert redriven_by(logs) == 10
