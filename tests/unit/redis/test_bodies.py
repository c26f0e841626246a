"""正文的编码：先看头就知道优先级，大的压缩，压不小的原样。"""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meeting_push.errors import MalformedEnvelopeError
from meeting_push.redis.bodies import decode_body, encode_body, priority_of


@given(tail=st.binary(max_size=4096), priority=st.integers(0, 9), above=st.integers(0, 4096))
def test_decode_undoes_encode(tail: bytes, priority: int, above: int) -> None:
    blob = encode_body(tail, priority, above)
    assert decode_body(blob) == tail
    assert priority_of(blob[:2]) == priority


def test_a_large_body_is_compressed() -> None:
    blob = encode_body(b"x" * 5000, 3, 1024)
    assert blob[:2] == b"z3"
    assert len(blob) < 100


def test_a_body_up_to_the_limit_stays_plain() -> None:
    assert encode_body(b"x" * 1024, 0, 1024) == b"j0" + b"x" * 1024


def test_a_body_that_does_not_shrink_stays_plain() -> None:
    noise = os.urandom(5000)
    assert encode_body(noise, 9, 1024) == b"j9" + noise


@pytest.mark.parametrize("blob", [b"", b"j", b"z", b"jx{}", b"q0{}", b"z0not zstd"])
def test_foreign_bytes_are_malformed(blob: bytes) -> None:
    with pytest.raises(MalformedEnvelopeError):
        decode_body(blob)


def test_no_header_means_no_priority() -> None:
    assert priority_of(b"") is None
