"""A3：SDK 这一侧：收下的读得懂；一批里有一条读不懂，别的照收。"""

from __future__ import annotations

import json
from typing import Any

import pytest

from meeting_push.client import wire
from meeting_push.protocol.json_text import MAX_DEPTH


def message(seq: int, data: str = "null", **fields: Any) -> str:
    head = {
        "type": "new_message",
        "seq": seq,
        "message_id": f"{seq:026}",
        "attempt": 0,
        "message_type": "message",
        "priority": 0,
        "title": "t",
        "content": "c",
        "sender": {"id": 1, "name": "a"},
        "timestamp": 1,
        "expires_at": 2,
        **fields,
    }
    return json.dumps(head)[:-1] + f',"data":{data}}}'


def batch(*messages: str) -> bytes:
    return f'{{"type":"batch","messages":[{",".join(messages)}]}}'.encode()


def nested(depth: int) -> str:
    return '{"d":' + "[" * (depth - 1) + "]" * (depth - 1) + "}"


def test_a3_the_deepest_that_is_accepted_is_read() -> None:
    """A3: one set of limits: door, socket, SDK."""
    frame = wire.decode(batch(message(1, nested(MAX_DEPTH))))
    assert isinstance(frame, wire.Batch)
    assert frame.messages[0].data == json.loads(nested(MAX_DEPTH))


def test_a3_one_unreadable_message_does_not_take_the_batch_with_it() -> None:
    """A3: what 0.1 let in (too deep), what a later server may say (another type)."""
    unreadable = [message(2, nested(50_000)), message(3, message_type="later"), message(5, "[1]")]
    frame = wire.decode(batch(message(1), unreadable[1], message(4), unreadable[2], message(6)))
    assert isinstance(frame, wire.Batch)
    assert [one.seq for one in frame.messages] == [1, 4, 6]


def test_a3_a_frame_that_is_no_batch_stays_unread() -> None:
    """A3"""
    assert wire.decode(message(1, nested(50_000)).encode()) is None
    assert wire.decode(batch(message(1), "garbage")) is None


@pytest.mark.parametrize("more", ["", ',"sender":null,"timestamp":null,"expires_at":null'])
def test_what_another_program_published_needs_only_three_fields(more: str) -> None:
    frame = wire.decode(
        b'{"type":"new_message","message_id":"build-4711","title":"t","content":"c"%b}'
        % more.encode()
    )
    assert isinstance(frame, wire.NewMessage)
    assert (frame.title, frame.content, frame.message_type) == ("t", "c", "message")
    assert (frame.seq, frame.broadcast_id, frame.sender.id) == (None, None, None)


def test_a_message_of_ours_with_a_field_missing_is_not_taken_for_a_transient_one() -> None:
    """它有号，要确认：当成瞬时的就没有人确认了。"""
    text = message(1).replace('"priority": 0,', "")
    assert wire.decode(text.encode()) is None
    assert wire.decode(batch(text)) == wire.Batch(messages=[])
