"""投递的样子，与怎样切成一次次的 Lua 调用（``deliver.lua``）。"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

import msgspec

from .lean import Groups
from .link import Argument

#: 一次 Lua 调用里至多这么多个收件人：实测约 2 ms，再大就会推迟别人的命令。
CALL_RECIPIENTS: Final = 200


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """要投递的一条消息与它的（一部分）收件人；``tail`` 见 ``envelope.encode_tail``。"""

    message_id: str
    tail: bytes
    recipient_ids: tuple[int, ...]
    priority: int
    expires_at: int
    attempt: int = 0


class Delivered(NamedTuple):
    """对一个收件人的结果：它的 seq，以及发布时有几个节点在听。"""

    user_id: int
    seq: int
    receivers: int
    #: 这个用户早已确认过它：没有再进信箱，也没有发布。
    acked: bool


#: 一次调用做得了的：哪几个收件人（从头数），哪些投递，要声明的键。
Part = tuple[Sequence[int], Sequence[Delivery], Sequence[Argument]]


def owners_of(deliveries: Iterable[Delivery]) -> list[int]:
    """全部收件人，依次。"""
    return [user_id for one in deliveries for user_id in one.recipient_ids]


def parts_of(deliveries: Sequence[Delivery], groups: Groups) -> list[Part]:
    """``groups``：``owners_of`` 的各组。"""
    if len(groups) == 1:
        [(places, keys)] = groups
        return [(places, deliveries, keys)]
    whose = [(at, user_id) for at, one in enumerate(deliveries) for user_id in one.recipient_ids]
    return [
        (places, _only(deliveries, [whose[at] for at in places]), keys) for places, keys in groups
    ]


def _only(deliveries: Sequence[Delivery], pairs: Sequence[tuple[int, int]]) -> list[Delivery]:
    """其中这些（第几条, 谁）的，次序照旧。"""
    by_delivery: dict[int, list[int]] = {}
    for at, user_id in pairs:
        by_delivery.setdefault(at, []).append(user_id)
    return [
        msgspec.structs.replace(deliveries[at], recipient_ids=tuple(users))
        for at, users in by_delivery.items()
    ]


def as_given(pairs: Sequence[int], parts: Sequence[Part]) -> list[int]:
    """各份的回答接起来的 → 照收件人的次序。"""
    found = [0] * len(pairs)
    places = (at for some, *_ in parts for at in some)
    for n, at in enumerate(places):
        found[2 * at : 2 * at + 2] = pairs[2 * n : 2 * n + 2]
    return found


def calls_of(deliveries: Iterable[Delivery]) -> Iterator[tuple[int, list[Argument]]]:
    """把一批切成若干次 Lua 调用：人数与参数；一条收件人很多的消息会跨几次调用。"""
    args: list[Argument] = []
    room = CALL_RECIPIENTS
    for delivery in deliveries:
        rest = delivery.recipient_ids
        while rest:
            now, rest = rest[:room], rest[room:]
            args += (delivery.message_id, delivery.attempt, delivery.tail, len(now), *now)
            room -= len(now)
            if room == 0:
                yield CALL_RECIPIENTS, args
                args, room = [], CALL_RECIPIENTS
    if args:
        yield CALL_RECIPIENTS - room, args


def delivered(user_id: int, seq: int, receivers: int) -> Delivered:
    return Delivered(user_id, seq, max(receivers, 0), receivers < 0)
