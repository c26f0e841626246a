"""会话核心：状态、次序、账目、坏帧、时间。没有 socket，没有时钟。"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from meeting_push.mailbox_model import MailboxEntry, MailboxView, ResumePoint
from meeting_push.model import Ack, Principal
from meeting_push.protocol import commands
from meeting_push.protocol.codes import CloseCode
from meeting_push.protocol.envelope import batch_parts, frame_key, new_message
from meeting_push.protocol.frames import ErrorFrame, RefreshTokenFrame
from meeting_push.protocol.limits import Limits
from meeting_push.protocol.line_session import FAILURES_EACH
from meeting_push.protocol.session import Phase, Pushed, Session
from tests.support.limits import limits_with

NOW = 1_000_000
EXPIRES = NOW + 3_600_000
TAIL = '"message_id":"{}","title":"t","content":"c"}}'


def limits(**settings: Any) -> Limits:
    return limits_with(**settings)


def message_id(seq: int) -> str:
    return f"01J{seq:023d}"


def message(seq: int, attempt: int = 0) -> bytes:
    return new_message(seq, attempt, TAIL.format(message_id(seq)).encode())


def view(*seqs: int, seq: int | None = None, epoch: str = "e") -> MailboxView:
    entries = tuple(MailboxEntry(each, message_id(each), 0) for each in seqs)
    return MailboxView(epoch, max(seqs, default=0) if seq is None else seq, entries)


def opening(**settings: Any) -> Session:
    session = Session(1, "connection", limits(**settings), NOW)
    session.authenticated(Principal(1, "user", NOW, EXPIRES))
    return session


def flushing(mailbox: MailboxView, **settings: Any) -> Session:
    session = opening(**settings)
    session.welcome(mailbox, "device", NOW)
    return session


def live(seq: int = 0, **settings: Any) -> Session:
    session = flushing(view(seq=seq), **settings)
    session.finish(view(seq=seq), NOW)
    return session


def push(session: Session, frame: bytes, now: int = NOW) -> Pushed:
    return session.push(frame, frame_key(frame), now)


def flush(session: Session, *seqs: int) -> None:
    for part in batch_parts([message(seq) for seq in seqs]):
        session.batch(part, NOW)


def receive(session: Session, now: int = NOW, **frame: object) -> commands.Command:
    return session.receive(msgspec.json.encode(frame), now)


def error_code(command: commands.Command) -> str:
    assert isinstance(command, commands.Refused)
    code: str = msgspec.json.decode(command.frame)["code"]
    assert code == command.code
    return code


def acked_seqs(command: commands.Command) -> list[int]:
    assert isinstance(command, commands.Acked)
    return [ack.seq for ack in command.acks]


# ── 状态 ────────────────────────────────────────────────────────────────────


def test_illegal_transitions_raise() -> None:
    session = opening()
    with pytest.raises(RuntimeError, match="flushing"):
        session.finish(view(), NOW)
    with pytest.raises(RuntimeError, match="live"):
        session.hold()
    session.welcome(view(), "device", NOW)
    with pytest.raises(RuntimeError, match="opening"):
        session.welcome(view(), "device", NOW)


def test_nothing_is_received_before_the_welcome_or_after_the_end() -> None:
    session = opening()
    with pytest.raises(RuntimeError, match="welcomed"):
        session.receive(b"{}", NOW)
    session.close()
    with pytest.raises(RuntimeError, match="welcomed"):
        session.receive(b"{}", NOW)


def test_a_closed_session_pushes_nothing() -> None:
    session = live()
    session.close()
    assert push(session, message(1)) is Pushed.CLOSED


def test_a_resync_follows_the_welcome() -> None:
    session = opening()
    mailbox = MailboxView("e", 9, (), resync_reason="too_far_behind")
    welcome, resync = map(msgspec.json.decode, session.welcome(mailbox, "device", NOW))
    assert welcome["type"] == "welcome"
    assert resync == {"type": "resync", "reason": "too_far_behind", "epoch": "e", "seq": 9}


# ── 推与补发 ─────────────────────────────────────────────────────────────────


def test_live_frames_in_order_are_sent() -> None:
    session = live()
    assert [push(session, message(seq)) for seq in (1, 2, 3)] == [Pushed.SEND] * 3


def test_a_repeated_seq_is_dropped_but_a_retry_passes() -> None:
    session = live()
    push(session, message(1))
    assert push(session, message(1)) is Pushed.DUPLICATE
    assert push(session, message(1, attempt=1)) is Pushed.SEND


def test_what_was_acked_is_still_a_duplicate() -> None:
    session = live()
    push(session, message(1))
    receive(session, type="ack", upto=1)
    assert push(session, message(1)) is Pushed.DUPLICATE


def test_a_hole_holds_until_the_mailbox_was_read_again() -> None:
    session = live()
    push(session, message(1))
    assert push(session, message(3)) is Pushed.HOLE
    assert session.phase is Phase.FLUSHING
    assert push(session, message(4)) is Pushed.HELD
    again = view(1, 2, 3)
    session.reread(again)
    assert [entry.seq for entry in session.unsent(again.entries)] == [2, 3]
    flush(session, 2, 3)
    assert session.finish(again, NOW) == [message(4)]
    assert push(session, message(5)) is Pushed.SEND


def test_held_frames_come_out_by_seq_without_what_the_flush_sent() -> None:
    session = flushing(view(1, 2))
    for seq in (4, 2, 3):
        assert push(session, message(seq)) is Pushed.HELD
    flush(session, 1, 2)
    assert session.finish(view(1, 2), NOW) == [message(3), message(4)]


def test_a_frame_older_than_the_mailbox_and_not_in_it_is_done_with() -> None:
    session = flushing(view(seq=5))
    push(session, message(4))
    assert session.finish(view(seq=5), NOW) == []


def test_a_transient_frame_keeps_its_place_among_the_held() -> None:
    session = flushing(view())
    transient = b'{"type":"new_message","message_id":"m","title":"t","content":"c"}'
    push(session, message(1))
    assert push(session, transient) is Pushed.HELD
    push(session, message(2))
    assert session.finish(view(), NOW) == [message(1), transient, message(2)]


def test_too_much_held_means_another_reading() -> None:
    session = flushing(view(), outbox_max_bytes=1024)
    verdicts = [push(session, message(seq)) for seq in range(1, 20)]
    assert verdicts[-1] is Pushed.HELD_OVERFLOW
    assert session.missed


def test_a_new_epoch_starts_the_books_again() -> None:
    session = live()
    push(session, message(1))
    session.hold()
    again = view(1, epoch="e2")
    (resync,) = session.reread(again)
    assert msgspec.json.decode(resync)["reason"] == "epoch_changed"
    assert [entry.seq for entry in session.unsent(again.entries)] == [1]
    flush(session, 1)
    session.finish(again, NOW)
    assert acked_seqs(receive(session, type="ack", upto=5)) == [1]


def test_a_reread_starts_after_what_was_pushed() -> None:
    """E1：从这里之后读日志。"""
    session = live(seq=4)
    push(session, message(5))
    assert session.position() == ResumePoint("e", 5, proven=True)


def test_while_the_first_flush_lasts_a_reread_starts_where_it_was_read() -> None:
    session = flushing(view(1, 2, seq=7))
    flush(session, 2)
    assert session.position() == ResumePoint("e", 7, proven=True)


def test_a_reread_that_the_log_can_not_serve_is_told_once() -> None:
    """E1：太久远的以 ``resync`` 说出来。"""
    session = live()
    session.hold()
    behind = MailboxView("e", 9, (), resync_reason="too_far_behind")
    (resync,) = session.reread(behind)
    assert msgspec.json.decode(resync) == {
        "type": "resync",
        "reason": "too_far_behind",
        "epoch": "e",
        "seq": 9,
    }
    assert session.position().last_seq == 9


def test_a_hole_among_the_held_means_another_reading() -> None:
    """断过又订上时正在补发：先放行后面的，漏掉的就落到它之后了。"""
    session = flushing(view(seq=5))
    push(session, message(6))
    assert not session.missed
    push(session, message(8))
    assert session.missed


def test_a_hole_between_what_was_read_and_the_held_means_another_reading() -> None:
    session = flushing(view(seq=5))
    push(session, message(7))
    assert session.missed


@pytest.mark.parametrize(("held", "missed"), [((4, 5, 6, 7), False), ((7,), True), ((6, 8), True)])
def test_dlv_5_a_hole_held_before_the_welcome_means_another_reading(
    held: tuple[int, ...], missed: bool
) -> None:
    """读过（到 5）之后、``welcome`` 之前漏了一条：放行了后面的，它就要等到下一条来。"""
    session = opening()
    for seq in held:
        push(session, message(seq))
    session.welcome(view(seq=5), "device", NOW)
    assert session.missed is missed


def test_what_was_held_of_an_old_epoch_is_not_pushed_in_the_new_one() -> None:
    session = live()
    assert push(session, message(5)) is Pushed.HOLE
    again = view(1, epoch="e2")
    session.reread(again)
    assert session.missed  # 也许是新 epoch 的：再读一次
    flush(session, 1)
    assert session.finish(again, NOW) == []


# ── 确认 ────────────────────────────────────────────────────────────────────


def test_an_acked_id_carries_when_it_was_sent_and_acked() -> None:
    session = live()
    push(session, message(1), NOW + 5)
    command = receive(session, NOW + 9, type="ack", message_ids=[message_id(1)])
    assert command == commands.Acked([Ack(message_id(1), 1, NOW + 5, NOW + 9)], [], None)


def test_ids_not_in_the_table_are_unverified_once_each() -> None:
    session = live()
    twice = [message_id(7)] * 2
    command = receive(session, type="ack", message_ids=twice, request_id="r")
    assert command == commands.Acked([], [message_id(7)], "r")


def test_upto_covers_only_what_this_connection_sent() -> None:
    """紧急的 seq 5 先到：``upto`` 4 不含它，也不含没推过的 2 和 3。"""
    session = flushing(view(seq=5))
    flush(session, 5, 1, 4)
    session.finish(view(seq=5), NOW)
    assert acked_seqs(receive(session, type="ack", upto=4)) == [1, 4]
    assert acked_seqs(receive(session, type="ack", upto=5)) == [5]


def test_the_table_is_bounded_and_the_forgotten_are_unverified() -> None:
    session = live(max_unacked=2)
    for seq in (1, 2, 3):
        push(session, message(seq))
    command = receive(session, type="ack", message_ids=[message_id(1), message_id(3)])
    assert isinstance(command, commands.Acked)
    assert (acked_seqs(command), command.unverified) == ([3], [message_id(1)])


def test_an_ack_of_nothing_is_invalid() -> None:
    assert error_code(receive(live(), type="ack", message_ids=[])) == "invalid_frame"


# ── 其余的帧 ─────────────────────────────────────────────────────────────────


def test_a_heartbeat_counts_and_knows_the_newest_seq() -> None:
    session = live(seq=7)
    command = receive(session, NOW + 5, type="heartbeat", timestamp=3, connection_id="connection")
    assert isinstance(command, commands.Beat)
    assert session.last_heartbeat == NOW + 5
    answer = msgspec.json.decode(command.frame)
    assert answer == {"type": "heartbeat_ack", "timestamp": 3, "server_time": NOW + 5, "seq": 7}


def test_commands_never_show_the_token() -> None:
    command = receive(live(), type="refresh_token", token="very-secret")
    assert isinstance(command, RefreshTokenFrame)
    assert "very-secret" not in repr(command)


def test_bad_frames_far_apart_are_forgiven() -> None:
    session = live(bad_frame_limit=3, bad_frame_window_s=60)
    for minute in range(10):
        assert error_code(session.receive(b"?", NOW + minute * 31_000)) == "invalid_json"


def test_bad_frames_close_together_end_it() -> None:
    session = live(bad_frame_limit=3)
    session.receive(b"?", NOW)
    session.receive_binary(NOW)
    command = session.too_large(NOW)
    assert isinstance(command, commands.Close)
    assert command.code is CloseCode.PROTOCOL_VIOLATION
    assert command.frame is not None


def test_requests_refused_again_and_again_end_it_and_he_may_come_back() -> None:
    session = live(bad_frame_limit=2)
    refused = ErrorFrame(code="rate_limited", message="no", temporary=True)
    answers = [session.fail(refused, NOW) for _ in range(2 * FAILURES_EACH)]
    assert all(isinstance(one, commands.Refused) for one in answers[:-1])
    assert isinstance(answers[-1], commands.Close)
    assert answers[-1].code is CloseCode.RATE_LIMITED


def test_a_frame_of_just_the_limit_is_fine() -> None:
    session = live(max_frame_bytes=1024)
    frame = b'{"type":"heartbeat","timestamp":1}'
    assert isinstance(session.receive(frame.ljust(1024), NOW), commands.Beat)
    assert error_code(session.receive(frame.ljust(1025), NOW)) == "frame_too_large"


# ── 时间 ────────────────────────────────────────────────────────────────────


def test_silence_ends_it_just_after_the_limit() -> None:
    session = live()
    assert session.tick(NOW + 60_000) is None
    assert session.tick(NOW + 60_001) == commands.Close(CloseCode.HEARTBEAT_TIMEOUT)


def test_our_own_stall_is_not_the_clients_silence() -> None:
    session = live()
    assert session.tick(NOW + 100_000, amnesty=NOW + 99_000) is None


def test_the_expiry_is_announced_once_a_minute_before() -> None:
    session = live()
    session.last_heartbeat = EXPIRES
    assert session.tick(EXPIRES - 60_001) is None
    assert isinstance(session.tick(EXPIRES - 60_000), commands.Reply)
    assert session.tick(EXPIRES - 59_000) is None
    assert session.tick(EXPIRES) == commands.Close(CloseCode.TOKEN_EXPIRED)


def test_a_refreshed_token_is_announced_again() -> None:
    session = live()
    session.last_heartbeat = EXPIRES
    session.tick(EXPIRES - 60_000)
    answer = session.token_refreshed(Principal(1, "user", NOW, EXPIRES + 900_000), "r")
    assert isinstance(answer, commands.Reply)
    assert msgspec.json.decode(answer.frame) == {
        "type": "token_refreshed",
        "token_expires_at": EXPIRES + 900_000,
        "request_id": "r",
    }
    assert session.tick(EXPIRES) is None
    assert isinstance(session.tick(EXPIRES + 840_000, amnesty=EXPIRES + 840_000), commands.Reply)


def test_the_token_of_another_user_ends_it() -> None:
    answer = live().token_refreshed(Principal(2, "admin", NOW, EXPIRES), None)
    assert answer == commands.Close(CloseCode.FORBIDDEN)


def test_the_next_tick_is_never_later_than_what_is_due() -> None:
    session = live()
    timeout = limits_with().heartbeat_timeout_ms
    now = NOW
    while session.tick(now) is None:  # 一无所有时也会醒来看看；醒来的时刻不越过该做的事
        assert session.tick(session.next_tick(now) - 1) is None
        now = session.next_tick(now)
    assert now == NOW + timeout + 1
