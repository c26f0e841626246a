"""会话的不变式：任何输入不抛出；推、确认、补发怎样交错，账目都对得上。"""

from __future__ import annotations

from typing import ClassVar

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from meeting_push.errors import MalformedEnvelopeError
from meeting_push.mailbox_model import MailboxEntry, MailboxView
from meeting_push.model import Principal
from meeting_push.protocol import commands
from meeting_push.protocol.envelope import batch_parts, frame_key, new_message
from meeting_push.protocol.limits import Limits
from meeting_push.protocol.sent import SentSeqs
from meeting_push.protocol.session import Phase, Pushed, Session
from tests.support.limits import limits_with

from .test_session import live, message, message_id

FRAME_TYPES = [
    "heartbeat",
    "ack",
    "status",
    "read",
    "refresh_token",
    "watch",
    "unwatch",
    "ops_watch",
    "x",
]
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
NEAR_FRAMES = st.fixed_dictionaries(
    {"type": st.sampled_from(FRAME_TYPES)},
    optional={
        name: JSON_VALUES | st.integers(0, 9) | st.lists(st.text(min_size=26, max_size=26))
        for name in (
            "message_ids",
            "upto",
            "timestamp",
            "token",
            "user_ids",
            "every_s",
            "request_id",
        )
    },
)


def encoded(frame: object) -> bytes:
    return msgspec.json.encode(frame)


@given(st.lists(st.binary(max_size=200) | NEAR_FRAMES.map(encoded), max_size=30))
def test_no_input_raises(frames: list[bytes]) -> None:
    session = live()
    for frame in frames:
        assert isinstance(session.receive(frame, 0), commands.Command)


@given(st.binary(max_size=200) | JSON_VALUES.map(encoded) | st.binary().map(message(1).__add__))
def test_a_published_payload_is_accepted_or_called_malformed(payload: bytes) -> None:
    try:
        key = frame_key(payload)
    except MalformedEnvelopeError:
        return
    assert key is None or (key[0] > 0 and key[1])


@given(st.lists(st.integers(1, 30) | st.integers(1, 30).map(lambda seq: -seq), max_size=60))
def test_sent_seqs_are_a_set(steps: list[int]) -> None:
    """负数是 ``settle``。"""
    sent = SentSeqs()
    model: set[int] = set()
    for step in steps:
        if step < 0:
            sent.settle(-step)
            model |= set(range(1, -step + 1))
        else:
            assert sent.add(step) is (step not in model)
            model.add(step)
        assert {seq for seq in range(1, 40) if seq in sent} == model


class SessionMachine(RuleBasedStateMachine):
    """一台设备对着一个信箱：发布可以丢、可以重、可以重试，随时重读，别的设备随时确认（E1）。"""

    limits: ClassVar[Limits] = limits_with()

    def __init__(self) -> None:
        super().__init__()
        self.seq = 0
        self.kept: set[int] = set()
        #: 客户端收到的，按次序；重试只在第一次到来时算。
        self.received: list[int] = []
        #: 推过、此后还没确认的。
        self.pending: set[int] = set()
        self.session = Session(1, "c", self.limits, 0)
        self.session.authenticated(Principal(1, "user", 0, 10**12))
        self.session.welcome(self.view(0), "d", 0)

    def view(self, after: int) -> MailboxView:
        """信箱，与日志里 ``after`` 之后的。"""
        seqs = sorted({*self.kept, *range(after + 1, self.seq + 1)})
        return MailboxView("e", self.seq, tuple(MailboxEntry(s, message_id(s), 0) for s in seqs))

    def store(self) -> bytes:
        self.seq += 1
        self.kept.add(self.seq)
        return message(self.seq)

    def push(self, frame: bytes) -> None:
        key = frame_key(frame)
        assert key is not None
        if self.session.push(frame, key, 0) is Pushed.SEND:
            self.note(frame)

    def note(self, frame: bytes) -> None:
        """客户端收到一帧；收到过的又来，只能是重试。"""
        key = frame_key(frame)
        assert key is not None
        self.pending.add(key[0])
        if key[0] not in self.received or b'"attempt":0' in frame:
            self.received.append(key[0])

    @rule()
    def deliver(self) -> None:
        self.push(self.store())

    @rule()
    def store_but_lose_the_publication(self) -> None:
        self.store()

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def publish_again(self, data: st.DataObject) -> None:
        seq = data.draw(st.sampled_from(sorted(self.kept)))
        self.push(message(seq, data.draw(st.integers(0, 1))))

    @precondition(lambda self: self.session.phase is Phase.LIVE)
    @rule()
    def ask_for_a_reread(self) -> None:
        self.session.hold()

    @precondition(lambda self: self.session.phase is Phase.FLUSHING)
    @rule(meanwhile=st.integers(0, 2))
    def read_and_flush(self, meanwhile: int) -> None:
        view = self.view(self.session.position().last_seq)
        self.session.reread(view)
        unsent = [entry.seq for entry in self.session.unsent(view.entries)]
        for _ in range(meanwhile):
            self.push(self.store())
        for part in batch_parts([message(seq) for seq in unsent]):
            self.session.batch(part, 0)
        self.received += unsent
        self.pending |= set(unsent)
        for frame in self.session.finish(view, 0):
            self.note(frame)

    @rule(upto=st.integers(0, 40))
    def ack_upto(self, upto: int) -> None:
        self.take_acks(encoded({"type": "ack", "upto": upto}), set(range(upto + 1)))

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def ack_ids(self, data: st.DataObject) -> None:
        seqs = data.draw(st.sets(st.sampled_from(sorted(self.kept))))
        if seqs:
            ids = [message_id(seq) for seq in seqs]
            self.take_acks(encoded({"type": "ack", "message_ids": ids}), seqs)

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def another_device_acks(self, data: st.DataObject) -> None:
        self.kept.remove(data.draw(st.sampled_from(sorted(self.kept))))

    def take_acks(self, frame: bytes, named: set[int]) -> None:
        """恰是点到名的里面推过而未确认的，不多不少。"""
        command = self.session.receive(frame, 0)
        assert isinstance(command, commands.Acked)
        seqs = {ack.seq for ack in command.acks}
        assert seqs == named & self.pending
        self.pending -= seqs
        self.kept -= seqs

    @invariant()
    def nothing_comes_twice(self) -> None:
        assert len(set(self.received)) == len(self.received)

    @invariant()
    def order_is_kept(self) -> None:
        """一个优先级之内按 seq（DLV-3）：断号会先补，所以从不倒退。"""
        assert self.received == sorted(self.received)

    @invariant()
    def nothing_is_missing_while_live(self) -> None:
        if self.session.phase is Phase.LIVE and self.received:
            assert set(range(1, max(self.received) + 1)) == set(self.received)


SessionMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestSessionMachine = SessionMachine.TestCase


def test_the_head_of_our_own_frames_is_recognised() -> None:
    assert frame_key(message(42)) == (42, message_id(42))
    transient = b'"message_id":"01J00000000000000000000000","title":"t","content":"c"}'
    assert frame_key(new_message(0, 0, transient)) is None
