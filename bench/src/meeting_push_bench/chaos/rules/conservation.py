"""DLV-1：accepted = delivered + in mailbox + in queue + failed + expired，逐个收件人，恰在一处。"""

from __future__ import annotations

from collections.abc import Iterator

from meeting_push.model import DeliveryStatus

from ..facts import Facts, Pair
from ..violation import Violation
from ..whereabouts import DEAD, Whereabouts

RULE = "conservation"


def conservation(facts: Facts) -> Iterator[Violation]:
    where = Whereabouts(facts)
    for message_id, origin in facts.accepted.items():
        if message_id not in where.recorded:
            yield Violation(
                rule=RULE, detail="accepted (2xx) but not in SQL", message_id=message_id
            )
            continue
        wanted, found = set(origin.intent.recipients), where.recipients_of(message_id)
        if wanted != found:
            detail = f"the recipients in SQL are {sorted(found)}, asked for {sorted(wanted)}"
            yield Violation(rule=RULE, detail=detail, message_id=message_id)
        for user_id in sorted(wanted & found):
            yield from _one_place(where, (user_id, message_id))


def _one_place(where: Whereabouts, pair: Pair) -> Iterator[Violation]:
    places = where.places(pair)
    if len(places) == 1 and places[0] != DEAD:
        if places == [DeliveryStatus.FAILED] and pair not in where.dead:
            yield _violation(pair, "failed, but not in the dead letters")
        return
    if places:
        yield _violation(pair, f"in more than one place, or in none that counts: {places}")
    else:
        yield _violation(pair, "lost: pending in SQL, in no mailbox and in no queue")


def _violation(pair: Pair, detail: str) -> Violation:
    return Violation(rule=RULE, detail=detail, user_id=pair[0], message_id=pair[1])
