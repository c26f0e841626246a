"""``MeetingSession``、令牌桶：纯的，时刻由测试给。"""

from __future__ import annotations

import json
from typing import Any

from meeting_push.limits.rate import TokenBucket
from meeting_push.meeting.frames import SegmentIn
from meeting_push.meeting.session import MeetingSession
from meeting_push.model import Principal
from meeting_push.protocol.codes import CloseCode
from meeting_push.protocol.commands import Beat, Close, Refused, Reply
from tests.support.limits import meeting_limits_with

GOOD = json.dumps({"type": "segment", "text": "t", "start_ms": 0, "end_ms": 1}).encode()


def session(**settings: Any) -> MeetingSession:
    return MeetingSession("c", meeting_limits_with(**settings), 0)


def test_a_bucket_allows_two_seconds_of_burst_then_the_rate() -> None:
    bucket = TokenBucket(10, 0)
    assert [bucket.take(1, 0) for _ in range(21)] == [True] * 20 + [False]
    assert [bucket.take(1, 100) for _ in range(2)] == [True, False]


def test_a_bucket_survives_a_clock_that_goes_back() -> None:
    bucket = TokenBucket(1, 1_000)
    assert bucket.take(2, 1_000)
    assert not bucket.take(1, 0)
    assert bucket.take(1, 1_000)


def test_the_largest_frame_always_fits_the_byte_bucket() -> None:
    one = session(meeting_bytes_per_s=1024, meeting_max_frame_bytes=4096)
    text = json.dumps({"type": "segment", "text": "x" * 3_900, "start_ms": 0, "end_ms": 1})
    assert isinstance(one.receive(text.encode(), 0), SegmentIn)


def test_refusals_for_haste_close_4005_and_not_4504() -> None:
    one = session(meeting_frames_per_s=0.5, bad_frame_limit=3)
    assert isinstance(one.receive(GOOD, 0), SegmentIn)
    assert isinstance(one.receive(GOOD, 0), Refused)
    assert isinstance(one.receive(GOOD, 0), Refused)
    last = one.receive(GOOD, 0)
    assert isinstance(last, Close)
    assert last.code is CloseCode.RATE_LIMITED


def test_bad_frames_outside_the_window_are_forgiven() -> None:
    one = session(bad_frame_limit=2)
    assert isinstance(one.receive_binary(0), Refused)
    assert isinstance(one.receive_binary(60_001), Refused)
    assert isinstance(one.receive_binary(60_002), Close)


def test_a_heartbeat_puts_off_the_timeout() -> None:
    one = session()
    beat = json.dumps({"type": "heartbeat", "timestamp": 1, "connection_id": "c"}).encode()
    assert isinstance(one.receive(beat, 30_000), Beat)
    assert one.tick(90_000) is None
    late = one.tick(90_001)
    assert isinstance(late, Close)
    assert late.code is CloseCode.HEARTBEAT_TIMEOUT


def test_an_expiring_token_is_warned_of_once_then_4004() -> None:
    one = session(heartbeat_timeout_s=1_000)
    one.authenticated(Principal(1, "user", 0, 100_000))
    assert one.next_tick(0) == 40_000
    assert isinstance(one.tick(40_000), Reply)
    assert one.tick(40_001) is None
    expired = one.tick(100_000)
    assert isinstance(expired, Close)
    assert expired.code is CloseCode.TOKEN_EXPIRED
