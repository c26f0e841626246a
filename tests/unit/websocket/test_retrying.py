"""心跳清扫顺带找到等不到确认的推送，交给 ``RetrySink``。"""

from __future__ import annotations

import pytest

from meeting_push.model import FailureCause
from meeting_push.protocol.codes import CloseCode
from meeting_push.protocol.envelope import new_message
from meeting_push.protocol.sent import Overdue
from tests.support.stand_ins import RetrySink, message_id, tail

from .test_heartbeat import House


def watched() -> tuple[House, RetrySink]:
    house = House(heartbeat_timeout_s=4_000)
    return house, house.retries


def push(house: House, number: int, attempt: int = 0) -> None:
    house.on_channel_message(b"user:{1}:messages", new_message(number, attempt, tail(number)))


async def test_a_push_without_an_ack_is_handed_over_after_a_minute() -> None:
    house, sink = watched()
    house.connect()
    push(house, 1)
    house.pass_time(59)
    assert sink.claimed == []
    house.pass_time(3)
    assert sink.claimed == [(1, Overdue(message_id(1), 0))]


async def test_an_acked_push_is_not() -> None:
    house, sink = watched()
    connection, _ = house.connect()
    push(house, 1)
    connection.receive(b'{"type":"ack","upto":1}')
    house.pass_time(130)
    assert sink.claimed == []


async def test_the_retry_is_pushed_and_waits_five_minutes() -> None:
    house, sink = watched()
    _, wire = house.connect()
    push(house, 1)
    house.pass_time(62)
    push(house, 1, attempt=1)
    assert wire.written[-1] == new_message(1, 1, tail(1))
    house.pass_time(298)
    assert len(sink.claimed) == 1
    house.pass_time(4)
    assert sink.claimed[1:] == [(1, Overdue(message_id(1), 1))]


async def test_what_others_acked_is_forgotten_once_the_claim_says_so() -> None:
    house, sink = watched()
    connection, _ = house.connect()
    push(house, 1)
    house.pass_time(62)
    assert sink.settle is not None
    sink.settle(message_id(1), None)
    assert len(connection.session.unacked.late) == 0


async def test_a_connection_that_left_hands_over_nothing() -> None:
    house, sink = watched()
    connection, _ = house.connect()
    push(house, 1)
    connection.lost()
    house.pass_time(200)
    assert sink.claimed == []


async def test_a_late_one_is_acked_by_id_and_by_upto() -> None:
    house, _ = watched()
    connection, _ = house.connect()
    for number in (1, 2):
        push(house, number)
    house.pass_time(62)
    connection.receive(b'{"type":"ack","message_ids":["%s"]}' % message_id(1).encode())
    connection.receive(b'{"type":"ack","upto":2}')
    assert len(connection.session.unacked.late) == 0


# ── 为什么没有确认 ───────────────────────────────────────────────────────────


async def test_without_heartbeats_it_is_the_network() -> None:
    house, sink = watched()
    house.connect()
    push(house, 1)
    house.pass_time(62)
    assert sink.why is not None
    assert sink.why() is FailureCause.NETWORK


async def test_with_heartbeats_it_is_the_client() -> None:
    house, sink = watched()
    connection, _ = house.connect()
    push(house, 1)
    for _ in range(3):
        connection.receive(b'{"type":"heartbeat","timestamp":1}')
        house.pass_time(30)
    assert sink.why is not None
    assert sink.why() is FailureCause.CLIENT


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        (None, FailureCause.NETWORK),
        (CloseCode.TOKEN_EXPIRED, FailureCause.AUTHENTICATION),
        (CloseCode.SERVER_DRAINING, FailureCause.CLIENT),
    ],
)
async def test_once_it_is_closed_how_it_was_closed_tells(
    code: CloseCode | None, cause: FailureCause
) -> None:
    house, sink = watched()
    connection, _ = house.connect()
    push(house, 1)
    connection.receive(b'{"type":"heartbeat","timestamp":1}')
    house.pass_time(62)
    if code is not None:
        connection.close(code)
    connection.lost()
    assert sink.why is not None
    assert sink.why() is cause
