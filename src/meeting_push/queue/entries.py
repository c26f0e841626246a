"""队列条目的编码，与取到手里的样子。"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec

from ..errors import MalformedEnvelopeError
from ..model import QueueEntry

ENTRY_VERSION: Final = b"1"

encode_entry: Final = msgspec.json.Encoder().encode
_decoder: Final = msgspec.json.Decoder(QueueEntry)


@dataclass(frozen=True, slots=True)
class Taken:
    """取到手、尚未了结的一项；``queue`` 是它所在的流，``digest`` 是去重用的摘要。

    ``scheduled``：它从延迟集合来，投递之前要看是否已被撤回。
    """

    entry_id: bytes
    queue: str
    entry: QueueEntry
    digest: bytes = b""
    scheduled: bool = False


def parse(queue: str, entry_id: bytes, fields: dict[bytes, bytes]) -> Taken:
    """:raises MalformedEnvelopeError: 版本不认识，或不是 ``encode_entry`` 的产物"""
    if fields.get(b"v") != ENTRY_VERSION:
        raise MalformedEnvelopeError("unknown entry version")
    try:
        entry = _decoder.decode(fields.get(b"entry", b""))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedEnvelopeError(f"malformed entry: {error}") from None
    return Taken(entry_id, queue, entry, fields.get(b"d", b""), b"s" in fields)
