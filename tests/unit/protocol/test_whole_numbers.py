"""C6：JSON 里的 3.0 就是 3；每一种客户端帧、每一个请求体的整数都一样，应用的 data 一字不动。"""

from __future__ import annotations

import gc
import json
import time
from typing import Any

import pytest

from meeting_push.errors import BadFrameError, InvalidInputError
from meeting_push.meeting.frames import decode_meeting_frame
from meeting_push.protocol.envelope import decode_envelope
from meeting_push.protocol.frames import decode_client_frame, peek_request_id
from meeting_push.router.json_body import JsonBody
from meeting_push.router.message_manage import BatchIn, DraftIn

ID = "01KAS30Z8Q0V9N4T7M2R5W6X1Y"
USER_FRAMES: list[dict[str, Any]] = [
    {"type": "heartbeat", "timestamp": 5, "request_id": 7},
    {"type": "ack", "upto": 3, "request_id": -7},
    {"type": "ack", "message_ids": [ID], "request_id": 0},
    {"type": "status", "status": "away", "request_id": 7},
    {"type": "read", "message_ids": [ID], "request_id": 7},
    {"type": "refresh_token", "token": "t", "request_id": 7},
    {"type": "watch", "user_ids": [7, 8], "request_id": 7},
    {"type": "unwatch", "user_ids": [7], "request_id": 7},
    {"type": "ops_watch", "every_s": 2, "request_id": 7},
    {"type": "ops_unwatch", "request_id": 7},
]
MEETING_FRAMES: list[dict[str, Any]] = [
    {"type": "heartbeat", "timestamp": 5, "request_id": 7},
    {"type": "refresh_token", "token": "t", "request_id": 7},
    {"type": "segment", "text": "x", "start_ms": 0, "end_ms": 9, "request_id": 7},
]


def with_floats(value: Any) -> Any:
    """每个整数都写成小数。"""
    if isinstance(value, dict):
        return {name: with_floats(each) for name, each in value.items()}
    if isinstance(value, list):
        return [with_floats(each) for each in value]
    return float(value) if type(value) is int else value


def text(value: object) -> bytes:
    return json.dumps(value).encode()


@pytest.mark.parametrize("frame", USER_FRAMES, ids=lambda frame: frame["type"])
def test_c6_every_user_frame(frame: dict[str, Any]) -> None:
    assert decode_client_frame(text(with_floats(frame))) == decode_client_frame(text(frame))


@pytest.mark.parametrize("frame", MEETING_FRAMES, ids=lambda frame: frame["type"])
def test_c6_every_meeting_frame(frame: dict[str, Any]) -> None:
    assert decode_meeting_frame(text(with_floats(frame))) == decode_meeting_frame(text(frame))


@pytest.mark.parametrize("number", ["2.5", "1e300", "-1.0", "9007199254740992.0", "1e400", "true"])
def test_a_number_that_is_not_one_of_ours_stays_refused(number: str) -> None:
    with pytest.raises(BadFrameError) as caught:
        decode_client_frame(f'{{"type":"ack","upto":{number}}}'.encode())
    assert caught.value.code == "invalid_frame"


def test_the_error_of_a_bad_frame_carries_its_request_id() -> None:
    assert peek_request_id(b'{"type":"dance","request_id":3.0}') == 3


def test_c6_a_body_and_what_lies_in_its_lists() -> None:
    one = {"recipient_ids": [1, 2], "title": "t", "content": "c", "priority": 3, "deliver_at": 9}
    batch = JsonBody(BatchIn)
    floats = batch.decode(text({"messages": [with_floats(one), one]}))
    assert floats == batch.decode(text({"messages": [one, one]}))


def test_c6_the_data_of_the_application_is_not_touched() -> None:
    body = b'{"recipient_ids":[1.0],"title":"t","content":"c","data":{"x": 1.0}}'
    assert bytes(JsonBody(DraftIn).decode(body).data) == b'{"x": 1.0}'


def test_the_first_wrong_field_is_still_named() -> None:
    good = {"recipient_ids": [1.0], "title": "t", "content": "c"}
    with pytest.raises(InvalidInputError) as caught:
        JsonBody(BatchIn).decode(text({"messages": [good, good | {"recipient_ids": [1.0, 2.5]}]}))
    assert caught.value.details == [
        {"field": "messages[1].recipient_ids[1]", "message": "Expected `int | str`, got `float`"}
    ]


@pytest.mark.parametrize(
    "bomb",
    [
        b'{"messages":[' + b'{"priority":1.0},' * 60_000 + b"{}]}",
        b'{"messages":[' + b'{"recipient_ids":[1.0],"title":"t","content":"c"},' * 20_000 + b"{}]}",
        b'{"messages":[{"title":"t","content":"c","recipient_ids":['
        + b"1.0," * 250_000
        + b"2.5]}]}",
    ],
    ids=["wrong at once", "many messages", "many numbers"],
)
def test_a1_the_second_reading_is_bounded(bomb: bytes) -> None:
    gc.disable()  # 别的测试留下的堆有多大，不是它的事
    try:
        start = time.thread_time()
        with pytest.raises(InvalidInputError):
            JsonBody(BatchIn).decode(bomb)
        assert time.thread_time() - start < 1
    finally:
        gc.enable()


def test_c6_what_other_processes_publish() -> None:
    frame = {"type": "new_message", "message_id": "m", "title": "t", "content": "c", "seq": 5.0}
    assert decode_envelope(text(frame)) == (5, "m")
