"""Sentinel 换主时丢了的：只放过真的丢了的那一段，别的照旧不放过。"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from meeting_push_bench.chaos.check import check
from meeting_push_bench.chaos.history import (
    AnyEvent,
    Faulted,
    Kept,
    KeptSeq,
    Opened,
    Recovered,
    Stood,
    Switched,
    Unrecorded,
)
from meeting_push_bench.chaos.losses import TOLD_WITHIN_MS, Losses, redriven_by
from meeting_push_bench.chaos.rules.duplicates import REDONE
from meeting_push_bench.chaos.stillness import Stillness

from .story import EPOCH, Story

ANN, BOB = 1, 2
NEW = "e2"


def broken(story: Story) -> set[str]:
    return set(check(story.end()).broken_rules())


def losses_of(story: Story) -> Losses:
    return Losses(story.events, Stillness(story.events))


def master_lost(story: Story, kind: str = "part_master") -> None:
    story.add(Faulted(at=story.now, kind=kind, target="redis", for_s=1))
    story.add(Recovered(at=story.now, kind=kind, target="redis", after_ms=10))


def proven(story: Story, *kept: KeptSeq, to: str = "redis-1") -> None:
    """主没了；换上来的有 ``kept``。"""
    story.add(Faulted(at=story.now, kind="kill_master", target="redis", for_s=1))
    story.add(Switched(at=story.now, to=to))
    story.add(Kept(at=story.now, node="redis-1", seqs=kept))
    story.add(Recovered(at=story.now, kind="kill_master", target="redis", after_ms=10))


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


@pytest.mark.parametrize(
    ("kept", "caught"),
    [
        ((KeptSeq(ANN, EPOCH, 0),), False),
        ((KeptSeq(ANN, EPOCH, 1),), True),
        ((KeptSeq(ANN, "", 0),), False),
        ((KeptSeq(BOB, EPOCH, 0),), True),
        ((), True),
    ],
)
def test_only_what_the_promoted_one_did_not_have_is_excused(
    kept: tuple[KeptSeq, ...], caught: bool
) -> None:
    """seq 1 用了两遍：换上来的有它，或换的是别人的主，就没有借口。"""
    story = reused_seq(lambda one: proven(one, *kept))
    assert ("duplicates" in broken(story)) == caught


def test_another_master_than_the_one_that_was_looked_at_proves_nothing() -> None:
    story = reused_seq(lambda one: proven(one, KeptSeq(ANN, EPOCH, 1), to="redis-2"))
    assert broken(story) == set()


@pytest.mark.parametrize(("kept", "caught"), [(0, False), (1, True)])
def test_what_the_promoted_one_had_was_removed_by_somebody(kept: int, caught: bool) -> None:
    story = Story()
    phone = story.connect(ANN)
    message_id = story.send(ANN)
    story.receive(phone, message_id)
    proven(story, KeptSeq(ANN, EPOCH, kept))
    story.add(Unrecorded(at=story.now, user_id=ANN, message_ids=(message_id,)))
    story.resync(phone, NEW, 1)
    push(story, phone, message_id, 2)
    story.ack(phone, message_id)
    assert ("confirmation" in broken(story)) == caught


@pytest.mark.parametrize(("kept", "caught"), [(0, False), (2, True)])
def test_a_hole_in_what_the_promoted_one_had_is_a_hole(kept: int, caught: bool) -> None:
    """换主之后还在旧的 epoch 里推：比有的小的都要到。"""
    story = Story()
    phone = story.connect(ANN)
    first, second = story.send(ANN), story.send(ANN)
    proven(story, KeptSeq(ANN, EPOCH, kept))
    push(story, phone, second, 2)
    story.resync(phone, NEW, 2)
    for seq, message_id in ((3, first), (4, second)):
        push(story, phone, message_id, seq)
        story.ack(phone, message_id)
    assert ("holes" in broken(story)) == caught


def test_what_is_lost_and_never_driven_again_is_a_broken_promise() -> None:
    """丢得有证据，也要再来。"""
    story = Story()
    phone = story.connect(ANN)
    message_id = story.send(ANN)
    story.receive(phone, message_id)
    proven(story, KeptSeq(ANN, EPOCH, 0))
    story.mailboxes[ANN].clear()
    story.resync(phone, NEW, 1)
    assert "conservation" in broken(story)


@pytest.mark.parametrize(("kept", "caught"), [((), True), ((KeptSeq(ANN, EPOCH, 9),), False)])
def test_only_the_people_of_the_lost_master_may_get_a_settled_one_again(
    kept: tuple[KeptSeq, ...], caught: bool
) -> None:
    story = Story()
    phone = story.connect(ANN)
    message_id = story.send(ANN)
    story.receive(phone, message_id)
    story.ack(phone, message_id)
    story.add(Faulted(at=story.now, kind="kill_master", target="redis", for_s=1))
    story.settle(ANN, message_id)
    story.add(Kept(at=story.now, node="redis-1", seqs=kept))
    story.add(Recovered(at=story.now, kind="kill_master", target="redis", after_ms=10))
    story.receive(story.connect(ANN), message_id)
    assert ("duplicates" in broken(story)) == caught


@pytest.mark.parametrize(
    ("lose", "attempts", "caught"),
    [
        (proven, (0, 1, 1), False),
        (proven, (0, 2, 1), False),
        (proven, (0, *[1] * REDONE), False),
        (proven, (0, *[1] * (REDONE + 1)), True),
        (proven, (0, 1, 0), True),
        (nothing, (0, 1, 1), True),
    ],
)
def test_a_retry_may_be_done_again_where_masters_changed(
    lose: Callable[[Story], None], attempts: tuple[int, ...], caught: bool
) -> None:
    story = Story()
    lose(story)
    phone = story.connect(ANN)
    message_id = story.send(ANN)
    for attempt in attempts:
        story.receive(phone, message_id, attempt=attempt)
    story.ack(phone, message_id)
    assert ("duplicates" in broken(story)) == caught


def test_what_was_first_pushed_in_a_new_epoch_is_known_in_the_old_one() -> None:
    """低的优先级还没有补到就换了 epoch：号照旧，在新的里才头一次推、被确认，旧的不欠它。"""
    story = Story()
    phone, tablet = story.connect(ANN), story.connect(ANN)
    low, high = story.send(ANN), story.send(ANN, priority=9)
    proven(story)
    story.resync(tablet, NEW, 2)
    story.receive(tablet, low, high)
    story.receive(phone, high, live=False)
    story.ack(tablet, low, high)
    assert "holes" not in broken(story)


def test_tens_of_thousands_of_unknown_seqs_are_one_hole() -> None:
    """没有换过主而跳了号：说得出，也不逐个去数。"""
    story = Story()
    phone = story.connect(ANN)
    message_id = story.send(ANN)
    push(story, phone, message_id, 5_000_000)
    story.ack(phone, message_id)
    assert check(story.end()).broken_rules()["holes"] == 2  # 头与尾


def test_a_machine_that_stood_still_is_not_late() -> None:
    story = Story()
    phone = story.connect(ANN)
    master_lost(story)
    story.now += TOLD_WITHIN_MS + 1_000
    story.add(Stood(at=story.now, for_ms=TOLD_WITHIN_MS))
    story.resync(phone, NEW, 0)
    assert set(losses_of(story).abandoned) == {(ANN, EPOCH)}


def test_a_new_epoch_long_after_a_switch_excuses_nothing() -> None:
    story = Story()
    phone = story.connect(ANN)
    master_lost(story)
    story.now += TOLD_WITHIN_MS + 1_000
    story.resync(phone, NEW, 0)
    assert losses_of(story).abandoned == {}


def test_a_switch_that_takes_minutes_is_one_all_the_while() -> None:
    """忙着的机器：故障到恢复就有几分钟，代次在其间才换。"""
    story = Story()
    phone = story.connect(ANN)
    story.add(Faulted(at=story.now, kind="part_master", target="redis", for_s=1))
    story.now += TOLD_WITHIN_MS + 1_000
    story.resync(phone, NEW, 0)
    story.add(Recovered(at=story.now, kind="part_master", target="redis", after_ms=10))
    assert set(losses_of(story).abandoned) == {(ANN, EPOCH)}


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
    losses = losses_of(story)
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
