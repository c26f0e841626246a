"""连续下限与去重：什么时候可以声称“都已应用”。"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meeting_push.client.ledger import Applied, RecentIds, SettledSeqs
from meeting_push.mailbox_model import ResumePoint

small = st.integers(1, 40)
ranges = st.lists(st.tuples(small, st.integers(0, 6)), max_size=40)


@given(st.integers(0, 20), ranges)
def test_settled_seqs_agree_with_a_plain_set(floor: int, added: list[tuple[int, int]]) -> None:
    settled, model = SettledSeqs(floor), set(range(floor + 1))
    for low, length in added:
        settled.add(low, low + length - 1)
        model |= set(range(low, low + length))
    assert [s for s in range(60) if s in settled] == sorted(model)
    assert settled.floor == next(s for s in range(61) if s + 1 not in model)


@given(st.lists(st.integers(1, 200), max_size=100), st.integers(1, 5))
def test_bounded_seqs_forget_but_never_invent(seqs: list[int], bound: int) -> None:
    settled = SettledSeqs(max_ranges=bound)
    for seq in seqs:
        settled.add(seq, seq)
    claimed = {s for s in range(1, 201) if s in settled}
    assert claimed <= set(seqs)
    assert set(range(1, settled.floor + 1)) <= set(seqs)


@given(st.lists(st.integers(0, 30).map(str), max_size=100), st.integers(1, 10))
def test_recent_ids_keep_the_latest_ones(added: list[str], capacity: int) -> None:
    ids = RecentIds(capacity, added)
    latest = list(dict.fromkeys(reversed(added)))[:capacity]
    assert ids.oldest_first() == latest[::-1]
    assert len(ids) == len(latest)


@given(st.data())
def test_dlv_5_the_claimed_position_covers_nothing_unapplied(data: st.DataObject) -> None:
    """随意一次连接：积压（优先级打乱次序）、live、处理失败；声称的位置之下不得有没应用的。"""
    backlog = data.draw(st.lists(small, unique=True, max_size=15))
    newest = max([*backlog, 0]) + data.draw(st.integers(0, 5))
    live = list(range(newest + 1, newest + 1 + data.draw(st.integers(0, 8))))
    applied = Applied(100)
    applied.opened("e", newest, resumed=False, pending=len(backlog))
    done: set[int] = set()
    coming = set(backlog) | set(live)
    for seq in data.draw(st.permutations(backlog)) + live:
        applied.received(seq)
        if data.draw(st.booleans()):
            applied.applied(str(seq), seq, "e")
            done.add(seq)
        point = applied.resume_point
        assert point is None or all(s in done for s in coming if s <= point.last_seq)


def at(epoch: str = "e", floor: int = 10) -> Applied:
    """一台位置在 ``floor``、刚刚续上的设备。"""
    applied = Applied(100, resume=ResumePoint(epoch, floor))
    applied.opened(epoch, floor, resumed=True, pending=0)
    return applied


def take(applied: Applied, *seqs: int) -> None:
    for seq in seqs:
        applied.received(seq)
        applied.applied(str(seq), seq, applied.epoch)


def test_an_urgent_message_that_overtook_does_not_move_the_floor() -> None:
    applied = at()
    take(applied, 12)
    assert applied.resume_point == ResumePoint("e", 10)
    take(applied, 11)
    assert applied.resume_point == ResumePoint("e", 12)


def test_a_new_device_claims_nothing_before_its_backlog_is_complete() -> None:
    applied = Applied(100)
    applied.opened("e", 9, resumed=False, pending=2)
    take(applied, 7)
    assert applied.resume_point is None
    take(applied, 3)
    assert applied.resume_point == ResumePoint("e", 9)


def test_a_new_device_with_an_empty_mailbox_starts_at_the_newest() -> None:
    applied = Applied(100)
    applied.opened("e", 9, resumed=False, pending=0)
    assert applied.resume_point == ResumePoint("e", 9)


def test_the_first_live_message_ends_a_backlog_that_came_short() -> None:
    applied = Applied(100)
    applied.opened("e", 9, resumed=False, pending=5)
    take(applied, 7, 10)
    assert applied.resume_point == ResumePoint("e", 10)


def test_a_failed_backlog_message_holds_the_floor_below_it() -> None:
    applied = Applied(100)
    applied.opened("e", 9, resumed=False, pending=2)
    applied.received(5)
    take(applied, 7)
    assert applied.resume_point == ResumePoint("e", 4)


def test_a_gap_moves_the_floor() -> None:
    applied = at()
    applied.gap(11, 14)
    assert applied.resume_point == ResumePoint("e", 14)


def test_a_gap_does_not_cover_what_is_in_hand() -> None:
    applied = at()
    applied.received(12)
    applied.gap(11, 14)
    assert applied.resume_point == ResumePoint("e", 11)
    take(applied, 12)
    assert applied.resume_point == ResumePoint("e", 14)


def test_a_resync_brings_the_new_epoch_and_floor() -> None:
    applied = at()
    take(applied, 12)
    applied.resynced("f", 3)
    assert applied.resume_point == ResumePoint("f", 3)


def test_a_resync_after_welcome_waits_for_the_backlog() -> None:
    applied = Applied(100, resume=ResumePoint("old", 50))
    applied.opened("new", 4, resumed=False, pending=1)
    applied.resynced("new", 4)
    assert applied.resume_point is None
    take(applied, 2)
    assert applied.resume_point == ResumePoint("new", 4)


def test_a_seq_of_an_old_epoch_moves_nothing() -> None:
    applied = at()
    applied.received(11)
    applied.resynced("f", 10)
    applied.applied("11", 11, "e")
    assert applied.resume_point == ResumePoint("f", 10)
    assert "11" in applied.ids
