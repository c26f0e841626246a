"""终局里每个（消息，收件人）在哪里。"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

from meeting_push.model import DeliveryStatus

from .facts import Facts, Pair
from .final_state import Queued, RecipientRow

MAILBOX = "mailbox"
QUEUE = "queue"
DEAD = "dead letters only"


class Whereabouts:
    """``places`` 应当恰有一处：delivered · mailbox · queue · failed · expired。"""

    def __init__(self, facts: Facts) -> None:
        final = facts.final
        self._facts = facts
        self._rows: dict[Pair, RecipientRow] = {
            (r.user_id, r.message_id): r for r in final.recipients
        }
        self._users_of: defaultdict[str, set[int]] = defaultdict(set)
        for row in final.recipients:
            self._users_of[row.message_id].add(row.user_id)
        self.in_mailbox: dict[Pair, int] = {
            (box.user_id, message_id): seq
            for box in final.mailboxes
            for message_id, seq in box.entries
        }
        self.in_queue = set(_pairs(final.queued))
        self.dead = set(_pairs(final.dead))
        self._outbox = {row.message_id for row in final.messages if row.outbox}
        self.recorded = {row.message_id for row in final.messages}

    def expected(self) -> Iterator[Pair]:
        """每个已接受的（消息，收件人）。"""
        for message_id, origin in self._facts.accepted.items():
            for user_id in origin.intent.recipients:
                yield user_id, message_id

    def recipients_of(self, message_id: str) -> set[int]:
        return self._users_of.get(message_id, set())

    def row(self, pair: Pair) -> RecipientRow | None:
        return self._rows.get(pair)

    def places(self, pair: Pair) -> list[str]:
        row = self._rows.get(pair)
        if row is None:
            return []
        ended = row.status != DeliveryStatus.PENDING
        places = [row.status] if ended else []
        if pair in self.in_mailbox:
            places.append(MAILBOX)
        if pair in self.in_queue:
            places.append(QUEUE)
        if not places and pair[1] in self._outbox:
            places.append(QUEUE)  # 发件箱是队列的前厅；记下入队可以晚一点，所以别处有就不算
        if pair in self.dead and row.status != DeliveryStatus.FAILED:
            places.append(DEAD)
        return places

    def accounts(self) -> dict[str, int]:
        """各处有几个；等式右边的各项，加上不合等式的。"""
        counts = Counter("+".join(self.places(pair)) or "nowhere" for pair in self.expected())
        return dict(sorted(counts.items()))


def _pairs(entries: Iterable[Queued]) -> Iterator[Pair]:
    for entry in entries:
        for user_id in entry.recipients:
            yield user_id, entry.message_id
