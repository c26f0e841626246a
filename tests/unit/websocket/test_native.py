"""分片的消息：有界，边收边验。"""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meeting_push.protocol.codes import CloseCode, may_be_received
from meeting_push.websocket.native import PartialMessage, is_utf8


@given(st.text(), st.lists(st.integers(0, 40)))
def test_any_cut_of_a_text_is_that_text(text: str, cuts: list[int]) -> None:
    whole = text.encode()
    edges = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    message = PartialMessage(len(whole), text=True)
    for start, end in pairwise(edges):
        assert message.add(whole[start:end], last=False) is None
    assert message.add(b"", last=True) is None
    assert message.joined() == whole


@given(st.binary(max_size=40))
def test_c9_the_verdict_is_that_of_the_whole(noise: bytes) -> None:
    message = PartialMessage(1000, text=True)
    verdicts = [message.add(noise[i : i + 1], last=False) for i in range(len(noise))]
    verdicts.append(message.add(b"", last=True))
    assert (CloseCode.INVALID_UTF8 in verdicts) is not is_utf8(noise)


def test_what_is_too_big_is_not_kept() -> None:
    message = PartialMessage(4, text=False)
    assert message.add(b"1234", last=False) is None
    assert message.add(b"5", last=False) is CloseCode.MESSAGE_TOO_BIG
    assert message.joined() == b"1234"


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 2999, 5000, 65_535])
def test_c9_codes_that_are_never_received(code: int) -> None:
    assert not may_be_received(code)


@pytest.mark.parametrize("code", [1000, 1003, 1007, 1014, 3000, 4999])
def test_c9_codes_that_may_be_received(code: int) -> None:
    assert may_be_received(code)
