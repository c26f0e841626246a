"""带着同一个 Idempotency-Key 重试多少次，都只成一条消息；被拒绝的什么都没有保存。"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from ..facts import Facts
from ..history import Answered, Intended, title
from ..violation import Violation

RULE = "idempotency"
#: 服务器说了“什么都没有保存”。
REFUSED = frozenset({429, 503})


def idempotency(facts: Facts) -> Iterator[Violation]:
    rows: defaultdict[str, list[str]] = defaultdict(list)
    for row in facts.final.messages:
        rows[row.title].append(row.message_id)
    for post, intended in facts.intended.items():
        answers = facts.answers[post]
        yield from _same_answer(answers)
        found = [rows[title(post, index)] for index in range(len(intended.intents))]
        yield from _at_most(intended, answers, found)
        yield from _answered_is_stored(answers, found)
    yield from _shared_ids(facts)


def _same_answer(answers: list[Answered]) -> Iterator[Violation]:
    accepted = [answer.message_ids for answer in answers if answer.message_ids]
    if len(set(accepted)) > 1:
        detail = f"one key was answered with different messages: {sorted(set(accepted))}"
        yield Violation(rule=RULE, detail=detail, message_id=accepted[0][0])


def _at_most(
    intended: Intended, answers: list[Answered], found: list[list[str]]
) -> Iterator[Violation]:
    """有键：至多一份。没有键：至多与没被拒绝的尝试一样多。批量：全有或全无。"""
    attempts = sum(1 for answer in answers if answer.status not in REFUSED)
    limit = min(attempts, 1) if intended.key is not None else attempts
    copies = [len(ids) for ids in found]
    if max(copies) > limit:
        detail = f"post {intended.post} became {max(copies)} messages, at most {limit} allowed"
        yield Violation(rule=RULE, detail=detail, message_id=max(found, key=len)[-1])
    if min(copies) != max(copies):
        detail = f"post {intended.post} was stored in part: {copies}"
        yield Violation(rule=RULE, detail=detail, message_id=max(found, key=len)[-1])


def _answered_is_stored(answers: list[Answered], found: list[list[str]]) -> Iterator[Violation]:
    for answer in answers:
        if answer.message_ids and len(answer.message_ids) != len(found):
            detail = f"{len(answer.message_ids)} results for {len(found)} messages"
            yield Violation(rule=RULE, detail=detail, message_id=answer.message_ids[0])
        for message_id, ids in zip(answer.message_ids, found, strict=False):
            if message_id not in ids:
                detail = "the answered id is not the stored one"
                yield Violation(rule=RULE, detail=detail, message_id=message_id)


def _shared_ids(facts: Facts) -> Iterator[Violation]:
    owner: dict[str, int] = {}
    for post, answers in facts.answers.items():
        for message_id in {each for answer in answers for each in answer.message_ids}:
            other = owner.setdefault(message_id, post)
            if other != post:
                detail = f"one id for the posts {other} and {post}"
                yield Violation(rule=RULE, detail=detail, message_id=message_id)
