"""飞行记录仪：记得什么，忘掉什么，怎样回答。"""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
import pytest

from meeting_push.node import flight_recorder
from meeting_push.node.flight_recorder import (
    Answer,
    FlightAnswers,
    FlightRecorder,
    Sighting,
    TraceAsk,
)
from meeting_push.node_identity import NodeIdentity
from meeting_push.redis.redis_service import RedisService
from tests.support.eventually import eventually

MINE, OTHER = "01J00000000000000000000000", "01J00000000000000000000001"


def full() -> FlightRecorder:
    """两条消息各走过每一站。"""
    recorder = FlightRecorder(100)
    for message_id in (MINE, OTHER):
        recorder.accepted.append((1, message_id))
        recorder.enqueued.append((2, message_id))
        recorder.taken.append((3, message_id, 5, 9, 0))
        recorder.delivered.append((4, message_id, 5, 9, 0))
        recorder.unacked.append((6, message_id, 8, "c8"))
        recorder.acked.append((7, message_id, 7, 5))
        recorder.retried.append((8, message_id, 8, 2))
    return recorder


def test_one_message_is_found_at_every_stage() -> None:
    assert list(full().find(MINE, {7, 8})) == [
        Sighting("accepted", 1),
        Sighting("enqueued", 2),
        Sighting("taken", 3, 5, 9),
        Sighting("delivered", 4, 5, 9),
        Sighting("pushed", 6, 8, 8, 0, "c8"),
        Sighting("pushed", 5, 7, 7),
        Sighting("acked", 7, 7, 7),
        Sighting("retried", 8, 8, 8, 2),
    ]


def test_only_what_touches_the_recipients_asked_for_is_told() -> None:
    found = [(one.stage, one.first) for one in full().find(MINE, {8})]
    assert found == [
        *(("accepted", 0), ("enqueued", 0), ("taken", 5), ("delivered", 5)),
        *(("pushed", 8), ("retried", 8)),
    ]


def test_the_oldest_is_forgotten_first() -> None:
    recorder = FlightRecorder(2)
    recorder.accepted.extend((at, MINE) for at in range(5))
    assert [one.at for one in recorder.find(MINE, {1})] == [3, 4]


def test_a_recorder_that_is_off_remembers_nothing() -> None:
    recorder = FlightRecorder(0)
    recorder.accepted.append((1, MINE))
    recorder.taken.extend([(1, MINE, 1, 1, 0)])
    assert list(recorder.find(MINE, {1})) == []


@pytest.fixture
async def answers(redis: RedisService) -> AsyncIterator[FlightAnswers]:
    answering = FlightAnswers(full(), redis, NodeIdentity())
    yield answering
    await answering.close()


def ask(nonce: str = "n", asker: str = "somebody") -> TraceAsk:
    return TraceAsk(nonce=nonce, asker=asker, message_id=MINE, recipients=[7])


async def test_an_answer_lies_where_the_asker_looks(
    answers: FlightAnswers, redis: RedisService
) -> None:
    answers.take(ask())
    key = redis.keys.trace_answers("n")
    [raw] = await eventually(lambda: redis.answers(key, 0))
    answer = msgspec.json.decode(raw, type=Answer)
    assert answer == answers.own(MINE, [7])
    assert 0 < await redis.lean.execute("PTTL", key) <= flight_recorder.ANSWER_TTL_MS


async def test_who_asks_does_not_answer_himself(
    answers: FlightAnswers, redis: RedisService
) -> None:
    answers.take(ask(asker=answers.own(MINE, [1]).node_id))
    answers.take(ask("other"))
    await eventually(lambda: redis.answers(redis.keys.trace_answers("other"), 0))
    assert await redis.answers(redis.keys.trace_answers("n"), 0) == []


async def test_one_answer_at_a_time(answers: FlightAnswers, redis: RedisService) -> None:
    answers.take(ask("first"))
    answers.take(ask("second"))
    assert answers.refused == 1
    assert await eventually(lambda: redis.answers(redis.keys.trace_answers("first"), 0))


async def test_an_answer_is_bounded_and_says_so(redis: RedisService) -> None:
    recorder = FlightRecorder(5_000)
    recorder.accepted.extend((at, MINE) for at in range(5_000))
    answer = FlightAnswers(recorder, redis, NodeIdentity()).own(MINE, [7])
    assert (len(answer.sightings), answer.truncated) == (flight_recorder.MAX_SIGHTINGS, True)


async def test_the_list_of_answers_is_bounded(redis: RedisService) -> None:
    for number in range(5):
        await redis.add_answer("k", b"%d" % number, most=3, ttl_ms=1_000)
    assert await redis.answers("k", 0) == [b"0", b"1", b"2"]
    assert await redis.answers("k", 2) == [b"2"]
    await redis.lean.execute("DEL", "k")
