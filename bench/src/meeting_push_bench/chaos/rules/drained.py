"""DLV-1 的另一半：在某处不够，还要出得来。平静之后只剩故意不确认的与还没到期的。"""

from __future__ import annotations

from collections.abc import Iterator

from ..facts import Facts
from ..violation import Violation
from ..whereabouts import MAILBOX, QUEUE, Whereabouts

RULE = "drained"


def drained(facts: Facts) -> Iterator[Violation]:
    where = Whereabouts(facts)
    for user_id, message_id in where.expected():
        intent = facts.accepted[message_id].intent
        # 没到期的还谈不上确不确认
        allowed = {QUEUE} if intent.later else {MAILBOX} if intent.hold else set()
        for place in where.places((user_id, message_id)):
            if place in (MAILBOX, QUEUE) and place not in allowed:
                yield Violation(
                    rule=RULE,
                    detail=f"still in the {place} when all devices had drained theirs",
                    user_id=user_id,
                    message_id=message_id,
                )
