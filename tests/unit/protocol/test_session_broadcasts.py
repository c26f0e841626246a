"""会话里不占 seq 的那些：耐久的广播，与宣告的洞。"""

from __future__ import annotations

import msgspec
import pytest

from meeting_push.mailbox_model import EvictedRange, MailboxView
from meeting_push.model import BroadcastEntry, BroadcastView, Principal
from meeting_push.protocol.envelope import BroadcastId
from meeting_push.protocol.session import Pushed, Session
from tests.support.limits import limits_with

NOW = 1_000_000
EVICTED = EvictedRange(3, 5, 2)


def opening(upto: int = 0) -> Session:
    session = Session(1, "connection", limits_with(), NOW)
    session.authenticated(Principal(1, "user", NOW, NOW + 1_000))
    session.broadcasts.read(BroadcastView((), upto))
    return session


def view(seq: int = 0, evicted: EvictedRange | None = None, *expired: int) -> MailboxView:
    return MailboxView("e", seq, (), evicted_before=evicted, expired=expired)


def live(upto: int = 0) -> Session:
    session = opening(upto)
    session.welcome(view(), "device", NOW)
    session.finish(view(), NOW)
    return session


def types(frames: list[bytes]) -> list[str]:
    return [msgspec.json.decode(frame)["type"] for frame in frames]


def test_a_live_broadcast_is_sent_once() -> None:
    session = live(upto=10)
    assert [session.push(b"x", BroadcastId(number), NOW) for number in (10, 11, 11, 12)] == [
        Pushed.DUPLICATE,
        Pushed.SEND,
        Pushed.DUPLICATE,
        Pushed.SEND,
    ]


def test_before_its_reread_a_live_broadcast_does_not_overtake_the_missed_ones() -> None:
    """E1：目录已重读而这条连接还没轮到；推了新的，漏掉的就再也不会补。"""
    session = live(upto=10)
    session.broadcasts.fall_behind()
    assert session.push(b"x", BroadcastId(13), NOW) is not Pushed.SEND
    missed = tuple(BroadcastEntry(n, n - 1, "m" * 26, 0, NOW + 1) for n in (11, 12, 13))
    session.broadcasts.read(BroadcastView(missed, 13))
    assert session.broadcasts.take() == missed
    assert session.push(b"y", BroadcastId(14), NOW) is Pushed.SEND


def test_a_broadcast_leaves_the_seq_ledger_alone() -> None:
    session = live()
    session.push(b"x", BroadcastId(1_800_000_000_000), NOW)
    assert session.newest == 0
    assert session.push(b"y", (1, "m" * 26), NOW) is Pushed.SEND


def test_held_broadcasts_the_flush_covered_are_not_sent_again() -> None:
    session = opening(upto=10)
    session.welcome(view(), "device", NOW)
    for number in (9, 10, 11):
        session.push(b"%d" % number, BroadcastId(number), NOW)
    assert session.finish(view(), NOW) == [b"11"]


def test_news_waits_until_it_is_taken_even_over_two_reads() -> None:
    session = opening()
    one, two = (BroadcastEntry(n, n - 1, "m", 0, NOW) for n in (1, 2))
    session.broadcasts.read(BroadcastView((one,), 1))
    session.broadcasts.read(BroadcastView((two,), 2))
    assert (session.broadcasts.take(), session.broadcasts.take()) == ((one, two), ())
    assert session.broadcasts.upto == 2


def test_dlv_5_a_gap_follows_the_welcome() -> None:
    frames = opening().welcome(view(9, EVICTED), "device", NOW)
    assert types(frames) == ["welcome", "gap"]


@pytest.mark.parametrize(("pushed", "told"), [(4, ["gap"]), (5, []), (9, [])])
def test_dlv_5_a_reread_announces_only_what_was_not_pushed(pushed: int, told: list[str]) -> None:
    session = opening()
    session.welcome(view(pushed), "device", NOW)
    session.finish(view(pushed), NOW)
    session.hold()
    assert types(session.reread(view(9, EVICTED))) == told


def test_dlv_5_a_gap_is_announced_once_over_two_reads() -> None:
    session = opening()
    assert types(session.welcome(view(9, EVICTED, 7), "device", NOW)) == ["welcome", "gap", "gap"]
    assert session.reread(view(9, EVICTED, 7)) == []
    assert types(session.reread(view(12, EVICTED, 7, 11))) == ["gap"]


def test_what_was_pushed_and_expired_unacked_is_no_gap() -> None:
    session = live()
    session.push(b"x", (1, "m" * 26), NOW)
    session.hold()
    assert types(session.reread(view(3, None, 1, 3))) == ["gap"]
