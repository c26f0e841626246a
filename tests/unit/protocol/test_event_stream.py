"""一条 SSE 流的位置：绝不超过真正写了的，也不原地不动。"""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from meeting_push.mailbox_model import MailboxEntry, MailboxView
from meeting_push.protocol.codes import CloseCode
from meeting_push.protocol.commands import Beat
from meeting_push.protocol.event_stream import (
    COMMENT,
    COMMENT_EVERY_MS,
    EventSession,
    StreamPosition,
    closing_event,
    on_one_line,
)
from meeting_push.protocol.frames import Gap, encode
from tests.support.limits import limits_with
from tests.support.stand_ins import message_id

EPOCH = "e"


def view(upto: int, *seqs: int, epoch: str = EPOCH, resumed: bool = False) -> MailboxView:
    entries = tuple(MailboxEntry(seq, message_id(seq), 0) for seq in seqs)
    return MailboxView(epoch, upto, entries, resumed=resumed)


def gap(low: int, high: int) -> bytes:
    return encode(Gap(from_seq=low, to_seq=high, count=1, reason="expired"))


def test_nothing_waiting_is_the_newest_seq() -> None:
    position = StreamPosition()
    position.read(view(12), [])
    assert str(position) == "e:12"


def test_it_stands_before_the_first_that_is_not_written() -> None:
    position = StreamPosition()
    position.read(view(12, 5, 9), [])
    assert str(position) == "e:4"
    position.wrote([9])
    assert str(position) == "e:4"
    position.wrote([5])
    assert str(position) == "e:12"


def test_what_an_earlier_stream_wrote_stays_written() -> None:
    position = StreamPosition()
    position.read(view(12, 3, 11, resumed=True), [], upto=10)
    assert str(position) == "e:10"
    position.wrote([3])
    assert str(position) == "e:10"
    position.wrote([11])
    assert str(position) == "e:12"


def test_a_gap_has_to_be_told_first() -> None:
    position = StreamPosition()
    told = gap(4, 6)
    position.read(view(9), [b'{"type":"welcome"}', told])
    assert str(position) == "e:3"
    position.wrote_gap(told)
    assert str(position) == "e:9"


def test_another_epoch_begins_again() -> None:
    position = StreamPosition()
    position.read(view(12), [])
    position.read(view(3, 2, epoch="f"), [])
    assert str(position) == "f:1"


def test_live_messages_move_it_one_by_one() -> None:
    position = StreamPosition()
    position.read(view(2), [])
    for seq in (3, 5, 4):
        position.wrote([seq])
    assert str(position) == "e:5"


@given(st.sets(st.integers(1, 30)), st.permutations(range(1, 31)), st.integers(0, 30))
def test_it_never_runs_ahead_and_ends_at_the_end(
    waiting: set[int], order: list[int], upto: int
) -> None:
    position = StreamPosition()
    position.read(view(30, *waiting, resumed=True), [], upto=upto)
    written = set(range(1, 31)) - waiting | set(range(1, upto + 1))
    before = -1
    for seq in (seq for seq in order if seq in waiting):
        at = int(str(position).partition(":")[2])
        assert set(range(1, at + 1)) <= written
        assert at >= max(before, upto)
        before = at
        written.add(seq)
        position.wrote([seq])
    assert str(position) == "e:30"


def test_a_comment_is_due_every_fifteen_seconds() -> None:
    session = EventSession(1, "c", limits_with(), now=0)
    session.token_expires_at = 10**12
    assert session.tick(COMMENT_EVERY_MS) is None  # 还没有 welcome
    session.welcome(view(0), "d", 0)
    assert session.next_tick(0) == COMMENT_EVERY_MS
    assert session.tick(COMMENT_EVERY_MS - 1) is None
    assert session.tick(COMMENT_EVERY_MS) == Beat(COMMENT)
    assert session.tick(COMMENT_EVERY_MS) is None
    assert session.next_tick(COMMENT_EVERY_MS) == 2 * COMMENT_EVERY_MS


def test_the_comment_keeps_up_with_a_short_timeout() -> None:
    session = EventSession(1, "c", limits_with(heartbeat_interval_s=1, heartbeat_timeout_s=2), 0)
    session.token_expires_at = 10**12
    session.welcome(view(0), "d", 0)
    assert session.next_tick(0) == 500


def test_the_last_event_has_the_code_and_its_name() -> None:
    text = closing_event(CloseCode.TOKEN_EXPIRED).decode()
    first, second, *rest = text.split("\n")
    assert first == "event: close"
    assert json.loads(second.removeprefix("data: ")) == {"code": 4004, "name": "token_expired"}
    assert rest == ["", ""]


@given(st.text())
def test_a_frame_is_one_line(text: str) -> None:
    frame = json.dumps({"a": text}, indent=1).replace("\n", "\r\n").encode()
    line = on_one_line(frame)
    assert b"\n" not in line
    assert b"\r" not in line
    assert json.loads(line) == {"a": text}
