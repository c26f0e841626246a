"""协议核心对任何文本都有一个命令，从不抛异常；回答都合文档，且不含原文。"""

from __future__ import annotations

import json
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from meeting_push.errors import MalformedEnvelopeError
from meeting_push.mailbox_model import MailboxView
from meeting_push.model import Principal
from meeting_push.protocol.commands import Close, Command, Refused
from meeting_push.protocol.envelope import frame_key
from meeting_push.protocol.session import Session
from meeting_push_bench.fuzz.json_frames import json_text
from tests.support import asyncapi
from tests.support.limits import limits_with

LIMITS = limits_with()
RANDOMS = st.randoms(use_true_random=False)


def live_session() -> Session:
    session = Session(1, "c", LIMITS, now=0)
    session.authenticated(Principal(user_id=1, role="user", issued_at=0, expires_at=10**15))
    view = MailboxView(epoch="e", seq=0, entries=())
    session.welcome(view, "d", 0)
    session.finish(view, 0)
    return session


def answers(command: Command) -> list[bytes]:
    frame = getattr(command, "frame", None)
    return [] if frame is None else [frame]


@given(RANDOMS)
def test_any_text_becomes_one_command(random: Random) -> None:
    command = live_session().receive(json_text(random), 0)
    for answer in answers(command):
        asyncapi.USER.check_server_frame(json.loads(answer))


@given(st.binary(max_size=300))
def test_any_bytes_become_one_command(data: bytes) -> None:
    assert isinstance(live_session().receive(data, 0), Command)


@given(RANDOMS)
def test_what_is_refused_is_never_quoted(random: Random) -> None:
    """原文可能含令牌（SEC-2）：回答与它无关的长短。"""
    text = json_text(random)
    command = live_session().receive(text, 0)
    if isinstance(command, Refused):
        error = json.loads(command.frame)
        assert len(error["message"]) < 200
        assert "a.b.c" not in error["message"]


def test_an_unknown_type_is_not_quoted() -> None:
    command = live_session().receive(b'{"type":"eyJhbGciOi","type":"%b"}' % ("à" * 400).encode(), 0)
    assert isinstance(command, Refused)
    assert "à" not in json.loads(command.frame)["message"]


@given(st.integers())
def test_bad_frames_end_the_session_at_the_limit(seed: int) -> None:
    session, random = live_session(), Random(seed)
    refused = 0
    for _ in range(60):
        command = session.receive(json_text(random)[:1000], 0)
        refused += isinstance(command, Refused)
        if isinstance(command, Close):
            break
    assert refused < LIMITS.bad_frame_limit


@given(RANDOMS)
def test_any_payload_on_a_channel_is_a_frame_or_malformed(random: Random) -> None:
    payload = json_text(random).replace(b'"heartbeat"', b'"new_message"')
    try:
        key = frame_key(payload)
    except MalformedEnvelopeError:
        return
    assert key is None or key[0] > 0
