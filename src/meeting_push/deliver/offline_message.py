"""信箱里的一条，连同正文：列出来给人看的样子。"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from ..mailbox_model import MailboxEntry
from ..protocol.frames import NewMessageTail


class StoredTail(NewMessageTail, frozen=True, kw_only=True):
    """``data`` 不解开：这里用不着它，0.1 存下的还可能太深。"""

    data: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)


_tail_decoder: Final = msgspec.json.Decoder(StoredTail)


class OfflineMessage(NamedTuple):
    """信箱里的一条，连同正文。"""

    entry: MailboxEntry
    tail: StoredTail


def decode_tail(tail: bytes) -> StoredTail:
    return _tail_decoder.decode(b"{" + tail)
