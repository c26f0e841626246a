"""A1：两种 WebSocket 的客户端帧：坏的只花一处错的功夫。"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from meeting_push.errors import BadFrameError
from meeting_push.meeting.frames import decode_meeting_frame
from meeting_push.protocol.frames import decode_client_frame, peek_request_id

ID = b'"' + b"0" * 26 + b'"'
#: 比默认的帧上限（64 KB）大得多：代价由第一处错决定，不由大小。
BOMBS = [
    b'{"type":"ack","message_ids":[' + b"{}," * 300_000 + b"{}]}",
    b'{"type":"ack","message_ids":[' + (ID + b",") * 30_000 + ID + b"]}",
    b'{"type":"read","message_ids":[' + b'"",' * 300_000 + b'""]}',
    b'{"type":"watch","user_ids":[' + b"0," * 400_000 + b"0]}",
    b'{"type":"watch","user_ids":[' + b"1," * 400_000 + b"1]}",
    b'{"type":"watch","user_ids":[9007199254740992]}',
    b'{"type":"ack","upto":9007199254740992}',
    b'{"type":"heartbeat","timestamp":9007199254740992}',
    b'{"type":"heartbeat","timestamp":NaN}',
    b'{"type":"segment","start_ms":0,"end_ms":9007199254740992,"text":"x"}',
    b'{"type":"segment","text":' + b"[" * 500_000,
    b'{"type":"' + b"x" * 1_000_000 + b'"}',
    b"{" + b",".join(b'"k%d":1' % number for number in range(90_000)) + b"}",
    # 3.12 起解码器许到一万层上下；浅的、不认得的一项照旧略过
    b'{"type":"heartbeat","timestamp":1,"x":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    b"[" * 1_000_000,
]


@pytest.mark.parametrize("decode", [decode_client_frame, decode_meeting_frame])
@pytest.mark.parametrize("frame", BOMBS, ids=lambda frame: repr(frame[:40]))
def test_a1_a_bad_frame_costs_one_error(decode: Callable[[bytes], object], frame: bytes) -> None:
    """A1, C8: CPU time; the answer does not repeat what was sent."""
    before = time.process_time()
    with pytest.raises(BadFrameError) as refused:
        decode(frame)
    peek_request_id(frame)
    assert time.process_time() - before < 0.1
    assert len(refused.value.message) < 300
