"""一个进程收下了多少，按种类，只增；应用自己的事务里的、广播不在内。"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from ..model import MessageKind, Outgoing, kind_of


class AcceptTally:
    def __init__(self) -> None:
        self.messages: Counter[MessageKind] = Counter()
        self.recipients: Counter[MessageKind] = Counter()
        #: 到时之前撤回了的收件人。
        self.cancelled = 0

    def note(self, accepted: Iterable[Outgoing]) -> None:
        for one in accepted:
            kind = kind_of(one.message)
            self.messages[kind] += 1
            self.recipients[kind] += len(one.recipient_ids)
