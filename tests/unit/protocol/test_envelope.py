"""线上的拼法：哪些帧能合在一帧 ``batch`` 里。"""

from __future__ import annotations

import json

from meeting_push.protocol.envelope import BATCH_MAX_MESSAGES, batch, batch_parts, new_message

ID = "01HZZZZZZZZZZZZZZZZZZZZZZZ"


def sent(seq: int) -> bytes:
    return new_message(seq, 0, b'"message_id":"%b","title":"t"}' % ID.encode())


def withdrawn(seq: int) -> bytes:
    return new_message(seq, 0, b'"message_id":"%b","withdrawn_at":1}' % ID.encode())


def shapes(*frames: bytes) -> list[tuple[str, list[int]]]:
    """每一份的类型与其中的各个 seq。"""
    found = [json.loads(batch(part)) for part in batch_parts(frames)]
    return [(one["type"], [each["seq"] for each in one.get("messages", [one])]) for one in found]


def test_a_withdrawal_travels_alone_and_keeps_its_place() -> None:
    """0.1 的客户端不认得它：在一帧 ``batch`` 里，别的消息就跟着到不了手。"""
    assert shapes(sent(1), sent(2), withdrawn(3), withdrawn(4), sent(5)) == [
        ("batch", [1, 2]),
        ("withdrawn", [3]),
        ("withdrawn", [4]),
        ("batch", [5]),
    ]


def test_a_batch_has_its_limit() -> None:
    parts = shapes(*(sent(seq) for seq in range(1, BATCH_MAX_MESSAGES + 2)))
    assert [len(seqs) for _, seqs in parts] == [BATCH_MAX_MESSAGES, 1]
