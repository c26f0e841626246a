"""A3、A1、C8：别的进程发布到频道上的，守与门口同样的规矩；坏的计数后丢弃，代价有上限。"""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from meeting_push.deliver.message_publisher import MessagePublisher
from meeting_push.errors import InvalidInputError, MalformedEnvelopeError
from meeting_push.meeting.frames import decode_bus_frame
from meeting_push.model import Message, Sender
from meeting_push.protocol import envelope
from meeting_push.protocol.envelope import MAX_FOREIGN_BYTES, frame_key
from meeting_push.protocol.json_text import MAX_DEPTH
from meeting_push.redis.dial import RedisAddress
from meeting_push.redis.keys import Keys
from meeting_push.redis.redis_service import RedisService
from tests.support.redis_server import RedisServer

HEAD = '{"type":"new_message","message_id":"n-1","title":"t","content":"c"'
OURS = b'{"type":"new_message","seq":%d,"attempt":0,"message_id":"' + b"0" * 26 + b'"'


def nested(depth: int) -> str:
    return '{"d":' + "[" * (depth - 1) + "]" * (depth - 1) + "}"


BAD = [
    *(f'{HEAD},"data":{nested(depth)}}}' for depth in (MAX_DEPTH + 1, 256, 900, 5_000)),
    *(f'{HEAD},"data":{{"n":{number}}}}}' for number in ("NaN", "Infinity", "1e400", "9" * 40)),
    *(f'{HEAD},"data":{other}}}' for other in ("[1]", '"x"', '{"s":"\\u0000"}')),
    *(f'{HEAD},"{field}":{2**53}}}' for field in ("seq", "timestamp", "expires_at")),
    '{"type":"gap","from_seq":1,"to_seq":9007199254740992,"count":1,"reason":"expired"}',
    '{"type":"gap","from_seq":-1,"to_seq":2,"count":1,"reason":"expired"}',
    '{"type":"receipt","message_id":"m","recipient_id":9007199254740992,"status":"s","timestamp":1}',
    '{"type":"read_sync","unread_count":0,"message_ids":[' + '"m",' * 1_000 + '"m"]}',
    '{"type":"removed","user_id":1}',
    HEAD + ',"pad":"' + "x" * MAX_FOREIGN_BYTES + '"}',
]


@pytest.mark.parametrize("payload", BAD, ids=lambda text: text[:20] + text[-40:])
def test_a3_a_foreign_frame_obeys_the_limits_of_the_door(payload: str) -> None:
    """A3, C1, C8: what could not be accepted is not passed on, either."""
    with pytest.raises(MalformedEnvelopeError):
        frame_key(payload.encode())


@pytest.mark.parametrize(
    "payload",
    [
        OURS % 5 + b",garbage}",
        OURS % 5 + b',"title":"t"',
        OURS % 5 + b'}{"type":"x"}',
        OURS % 2**53 + b',"title":"t","content":"c"}',
        OURS % 5 + b',"data":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    ],
    ids=repr,
)
def test_a3_a_frame_that_begins_like_ours_is_still_looked_at(payload: bytes) -> None:
    """A3: the head alone proves nothing."""
    with pytest.raises(MalformedEnvelopeError):
        frame_key(payload)


def test_a3_ours_still_passes() -> None:
    """A3: the deepest that is accepted, live."""
    message = Message(
        message_id="0" * 26,
        message_type="message",
        priority=0,
        title="t",
        content="{[" * 100,
        sender=Sender(1, "a"),
        timestamp=1,
        expires_at=2,
        data=json.loads(nested(MAX_DEPTH)),
    )
    assert frame_key(envelope.new_message(7, 0, envelope.encode_tail(message))) == (7, "0" * 26)


NEWER_HEAD = b'","seq":7,"attempt":0,"message_id":"' + b"0" * 26 + b'","shade":1}'


def test_a_durable_frame_only_a_newer_version_knows_passes_and_is_accounted() -> None:
    """滚动升级：头一样，占一个 seq；不转发就成了一个洞。"""
    assert frame_key(b'{"type":"inbox_moved' + NEWER_HEAD) == (7, "0" * 26)


@pytest.mark.parametrize("kind", [b"welcome", b"batch", b"token_expiring", b"error", b"Odd", b""])
def test_what_never_comes_by_a_channel_does_not_pass_as_newer(kind: bytes) -> None:
    with pytest.raises(MalformedEnvelopeError):
        frame_key(b'{"type":"' + kind + NEWER_HEAD)


@pytest.mark.parametrize(
    "payload",
    [
        b'{"type":"ended","seq":9007199254740992,"ended_at":1}',
        b'{"type":"ended","seq":-1,"ended_at":1}',
        b'{"type":"join","user_id":9007199254740992,"name":"x","online":true,"timestamp":1}',
        b'{"type":"leave","user_id":1,"name":"' + b"x" * MAX_FOREIGN_BYTES + b'"}',
        b'{"type":"removed","user_id":null}',
        b"[" * 100_000,
    ],
    ids=lambda payload: repr(payload[:40]),
)
def test_a3_a_foreign_meeting_frame_obeys_them_too(payload: bytes) -> None:
    """A3, C8: the other bus."""
    with pytest.raises(MalformedEnvelopeError):
        decode_bus_frame(payload)


def test_a1_a_foreign_bomb_costs_little() -> None:
    """A1: CPU time, not the clock."""
    bombs = [
        b'{"type":"read_sync","unread_count":0,"message_ids":[' + b"{}," * 300_000 + b"{}]}",
        f'{HEAD},"data":{{"a":[{"{}," * 330_000}1]}}}}'.encode(),
        b'{"type":"new_message",' + b",".join(b'"k%d":1' % n for n in range(90_000)) + b"}",
        b"[" * 10_000_000,
    ]
    for bomb in bombs:
        before = time.process_time()
        with pytest.raises(MalformedEnvelopeError):
            frame_key(bomb)
        assert time.process_time() - before < 0.3


@pytest.mark.parametrize(
    "data", [{"n": float("nan")}, {"d": json.loads(nested(40))}, {"s": "\ud800"}, [1], {"n": 2**70}]
)
async def test_c1_the_publisher_refuses_what_the_receiver_would_drop(
    redis_server: RedisServer, data: Any
) -> None:
    """C1, A3: ``publish_to_user`` says so instead of losing it."""
    redis = RedisService(RedisAddress.parse(redis_server.url), Keys("t:"))
    publisher = MessagePublisher(redis, max_bytes=100_000)
    with pytest.raises(InvalidInputError):
        await publisher.publish_to_user(1, {"title": "t", "content": "c", "data": data})
