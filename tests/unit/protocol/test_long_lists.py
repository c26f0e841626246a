"""A1：一列列的 id 太长的，不解码就说得出来。"""

from __future__ import annotations

import json

import pytest

from meeting_push.errors import PayloadTooLargeError
from meeting_push.protocol.json_text import Lists
from meeting_push.router.event_stream import AcksIn
from meeting_push.router.json_body import JsonBody
from meeting_push.router.message_manage import BatchIn, DraftIn, draft_limits
from meeting_push.settings import MessageSettings

RULES = MessageSettings(max_recipients=10)


def draft_lists() -> Lists:
    return Lists(JsonBody(DraftIn, draft_limits(RULES)).schema)


@pytest.mark.parametrize("one", [b"1", b'"x"', b"null", b" 1.0 "])
def test_a1_a_list_that_is_too_long_is_refused_before_it_is_decoded(one: bytes) -> None:
    body = b'{"title":"t","recipient_ids":[' + b",".join([one] * 21) + b"]}"
    with pytest.raises(PayloadTooLargeError, match="recipient_ids: more than 10"):
        draft_lists().check(body)


def test_a1_a_key_written_with_escapes_is_the_same_key() -> None:
    body = b'{"\\u0072ecipient_ids":[' + b"1," * 20 + b"1]}"
    with pytest.raises(PayloadTooLargeError):
        draft_lists().check(body)


@pytest.mark.parametrize(
    "body",
    [
        {"recipient_ids": [1] * 20},  # 重复的只算一次
        {"recipient_ids": [1], "content": "," * 1_000},
        {"recipient_ids": [1], "data": {"recipient_ids": [1] * 1_000}},
        {"content": "no list"},
    ],
    ids=["repeated", "commas in a text", "the application's own", "absent"],
)
def test_what_the_decoder_may_still_take_is_left_to_it(body: object) -> None:
    draft_lists().check(json.dumps(body).encode())


@pytest.mark.parametrize("body", [b"", b"[", b"[" * 100_000, b'{"recipient_ids":'])
def test_what_is_no_json_is_left_to_the_decoder(body: bytes) -> None:
    draft_lists().check(body)


def test_a1_lists_that_may_be_absent_are_counted_too() -> None:
    body = b'{"message_ids":[' + b'"",' * 2_000 + b'""]}'
    with pytest.raises(PayloadTooLargeError):
        Lists(JsonBody(AcksIn).schema).check(body)


def test_a_list_of_objects_is_not_counted_by_its_commas() -> None:
    draft = {"recipient_ids": [1, 2, 3], "title": "t", "content": "c"}
    limits = {**draft_limits(RULES), "messages": {"maxItems": 2}}
    Lists(JsonBody(BatchIn, limits).schema).check(json.dumps({"messages": [draft] * 2}).encode())
