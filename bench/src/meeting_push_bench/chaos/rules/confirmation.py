"""DLV-4：``delivered`` 只在某台设备发出 ack 之后；记下了就不收回；先记录，后移出信箱。"""

from __future__ import annotations

from collections.abc import Iterator

from meeting_push.model import DeliveryStatus

from ..facts import Facts, Pair
from ..history import Observed, Unrecorded
from ..violation import Violation

RULE = "confirmation"
#: 产品记下的确认时刻与我们记下的发出时刻是同一个时钟；只为时钟被校准留一点余地。
CLOCK_SLACK_MS = 50


def confirmation(facts: Facts) -> Iterator[Violation]:
    yield from _recorded(facts)
    yield from _observed(facts)
    yield from _removed_first(facts)


def _recorded(facts: Facts) -> Iterator[Violation]:
    for row in facts.final.recipients:
        if row.status != DeliveryStatus.DELIVERED:
            continue
        pair = (row.user_id, row.message_id)
        ack = facts.first_ack.get(pair)
        if ack is None:
            yield _violation(pair, "delivered, but no device of the user ever sent an ack")
        elif row.delivered_at is None:
            yield _violation(pair, "delivered, without a time")
        elif row.delivered_at < ack.at - CLOCK_SLACK_MS:
            early = ack.at - row.delivered_at
            yield _violation(pair, f"delivered {early} ms before the first ack", ack.at_index)


def _observed(facts: Facts) -> Iterator[Violation]:
    delivered: set[Pair] = set()
    for index, event in enumerate(facts.events):
        if not isinstance(event, Observed):
            continue
        for state in event.states:
            pair = (state.user_id, event.message_id)
            if state.status == DeliveryStatus.DELIVERED:
                ack = facts.first_ack.get(pair)
                if ack is None or ack.at_index > index:
                    yield _violation(pair, "seen as delivered before any ack was sent", index)
                delivered.add(pair)
            elif pair in delivered:
                yield _violation(pair, f"was delivered, then {state.status}", index)
    for row in facts.final.recipients:
        pair = (row.user_id, row.message_id)
        if pair in delivered and row.status != DeliveryStatus.DELIVERED:
            yield _violation(pair, f"was delivered, ended as {row.status}")


def _removed_first(facts: Facts) -> Iterator[Violation]:
    """Redis 丢了数据，还没有补上的：不在信箱里不是谁移出的。"""
    latest: dict[Pair, int] = {}
    pushes = iter(facts.pushed)
    following = next(pushes, None)
    for index, event in enumerate(facts.events):
        while following is not None and following.at_index <= index:
            latest[following.user_id, following.push.message_id] = following.push.seq
            following = next(pushes, None)
        if not isinstance(event, Unrecorded):
            continue
        for message_id in event.message_ids:
            seq = latest.get((event.user_id, message_id), 0)
            if not facts.losses.lacking(event.user_id, event.at, seq):
                detail = "gone from the mailbox while SQL still says pending"
                yield _violation((event.user_id, message_id), detail, index)


def _violation(pair: Pair, detail: str, index: int | None = None) -> Violation:
    return Violation(rule=RULE, detail=detail, user_id=pair[0], message_id=pair[1], index=index)
