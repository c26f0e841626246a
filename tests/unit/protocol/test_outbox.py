"""发件箱：字节与秒数有界，次序不乱。"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meeting_push.protocol.outbox import Offered, Outbox
from tests.support.limits import limits_with

LIMITS = limits_with(outbox_max_bytes=1024, outbox_max_delay_s=5)
FRAME = b"x" * 400


def drained(outbox: Outbox) -> list[bytes]:
    return list(iter(outbox.pop, None))


def test_frames_go_straight_through_while_writable() -> None:
    outbox = Outbox(LIMITS)
    assert [outbox.offer(FRAME, now) for now in range(10)] == [Offered.SEND] * 10
    assert outbox.size == 0


def test_blocked_frames_queue_up_to_the_byte_limit() -> None:
    outbox = Outbox(LIMITS)
    outbox.block(0)
    answers = [outbox.offer(FRAME, 0) for _ in range(3)]
    assert answers == [Offered.QUEUED, Offered.QUEUED, Offered.OVERFLOW]
    assert outbox.size == 800


def test_queued_frames_are_the_very_objects_in_order() -> None:
    outbox = Outbox(LIMITS)
    outbox.block(0)
    frames = [b"a", b"b", b"c"]
    for frame in frames:
        outbox.offer(frame, 0)
    outbox.resume()
    assert all(out is frame for out, frame in zip(drained(outbox), frames, strict=True))
    assert outbox.size == 0


def test_blocked_longer_than_the_limit_overflows() -> None:
    outbox = Outbox(LIMITS)
    outbox.block(1_000)
    assert not outbox.overdue(6_000)
    assert outbox.offer(b"x", 6_001) is Offered.OVERFLOW


def test_blocking_twice_counts_from_the_first() -> None:
    outbox = Outbox(LIMITS)
    outbox.block(0)
    outbox.block(4_000)
    assert outbox.overdue(5_001)


def test_blocking_again_while_draining_stops_the_drain() -> None:
    outbox = Outbox(LIMITS)
    outbox.block(0)
    outbox.offer(b"a", 0)
    outbox.offer(b"b", 0)
    outbox.resume()
    assert outbox.pop() == b"a"
    outbox.block(1)
    assert outbox.pop() is None
    outbox.resume()
    assert drained(outbox) == [b"b"]


def test_a_frame_offered_while_draining_waits_its_turn() -> None:
    outbox = Outbox(LIMITS)
    outbox.block(0)
    outbox.offer(b"a", 0)
    outbox.resume()
    assert outbox.offer(b"b", 1) is Offered.QUEUED
    assert drained(outbox) == [b"a", b"b"]
    assert outbox.offer(b"c", 2) is Offered.SEND


Steps = st.lists(st.sampled_from(["offer", "block", "resume"]), max_size=60)


@given(Steps)
def test_whatever_happens_order_is_kept_and_bytes_are_bounded(steps: list[str]) -> None:
    outbox = Outbox(LIMITS)
    offered: list[bytes] = []
    written: list[bytes] = []
    for number, step in enumerate(steps):
        if step == "block":
            outbox.block(0)
        elif step == "resume":
            outbox.resume()
            written += drained(outbox)
        else:
            frame = b"%04d" % number * 50
            answer = outbox.offer(frame, 0)
            if answer is not Offered.OVERFLOW:
                offered.append(frame)
            if answer is Offered.SEND:
                written.append(frame)
        assert outbox.size <= LIMITS.outbox_max_bytes
    outbox.resume()
    assert written + drained(outbox) == offered
