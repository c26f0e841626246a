"""SEC-1：没有一帧、一个信箱条目、一行状态属于别人；正文也没有张冠李戴。"""

from __future__ import annotations

from collections.abc import Iterator

from ..facts import Facts, Pushed
from ..history import title
from ..violation import Violation
from ..whereabouts import Whereabouts

RULE = "foreign"


def foreign(facts: Facts) -> Iterator[Violation]:
    for pushed in facts.pushed:
        detail = _wrong(facts, pushed)
        if detail is not None:
            yield pushed.breaks(RULE, detail)
    yield from _stored(facts)


def _wrong(facts: Facts, pushed: Pushed) -> str | None:
    push = pushed.push
    origin = facts.origin(push.message_id, push.title)
    if origin is None:
        return "a message nobody sent"
    if pushed.user_id not in origin.intent.recipients:
        return f"delivered to user {pushed.user_id}, sent to {list(origin.intent.recipients)}"
    if push.message_id not in facts.accepted:
        return "pushed, but never recorded in SQL"
    sent = (title(origin.post, origin.place), origin.intent.priority, origin.intent.crc)
    if (push.title, push.priority, push.crc) != sent:
        return "another title, priority or content than was sent"
    return None


def _stored(facts: Facts) -> Iterator[Violation]:
    for row in facts.final.messages:
        if facts.origin(row.message_id, row.title) is None:
            detail = f"in SQL, but nobody sent it: {row.title}"
            yield Violation(rule=RULE, detail=detail, message_id=row.message_id)
    where = Whereabouts(facts)
    for kind, pairs in (("mailbox", where.in_mailbox), ("queue", where.in_queue)):
        for user_id, message_id in pairs:
            origin = facts.accepted.get(message_id)
            if origin is None or user_id not in origin.intent.recipients:
                detail = f"in the {kind} of a user it was not sent to"
                yield Violation(rule=RULE, detail=detail, user_id=user_id, message_id=message_id)
