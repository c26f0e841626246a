"""DLV-2、DLV-3：重复只能是同一个 id 与同一个 seq；一条连接上的重复只能是重试；了结的不再来。"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from ..facts import Facts, Pair
from ..history import Settled
from ..violation import Violation

RULE = "duplicates"
#: 换着主的十来秒，每两秒（``claim_idle_ms``）有人认领一遍。
REDONE: Final = 6


def duplicates(facts: Facts) -> Iterator[Violation]:
    yield from _one_seq(facts)
    yield from _repeats(facts)
    yield from _settled(facts)


def _one_seq(facts: Facts) -> Iterator[Violation]:
    """一个用户的一个 epoch 里，id 与 seq 一一对应。"""
    seq_of: dict[tuple[int, str, str], int] = {}
    id_of: dict[tuple[int, str, int], str] = {}
    for pushed in facts.pushed:
        if facts.unsure(pushed):
            continue
        user_id, epoch, push = pushed.user_id, pushed.epoch, pushed.push
        seq = seq_of.setdefault((user_id, epoch, push.message_id), push.seq)
        if seq != push.seq:
            yield pushed.breaks(RULE, f"came with seq {seq} before, now with {push.seq}")
        message_id = id_of.setdefault((user_id, epoch, push.seq), push.message_id)
        if message_id != push.message_id:
            yield pushed.breaks(RULE, f"seq {push.seq} was {message_id} before")
    for box in facts.final.mailboxes:
        for message_id, stored in box.entries:
            seq = seq_of.get((box.user_id, box.epoch, message_id), stored)
            if seq != stored:
                detail = f"pushed with seq {seq}, in the mailbox with {stored}"
                yield Violation(
                    rule=RULE, detail=detail, user_id=box.user_id, message_id=message_id
                )


def _repeats(facts: Facts) -> Iterator[Violation]:
    """同一条连接上再来的只能是下一次重试。

    主换过、槽搬过的：一批里有一个槽不答，整批重做；了结了的认领，新的主上也许还在（决定 0018）。
    同一次重试就再推几遍，至多 ``REDONE``；头一次推送（0）没有两遍。
    """
    latest: dict[tuple[int, str, int], int] = {}
    counts: Counter[tuple[int, str, int, int]] = Counter()
    redone = REDONE if facts.losses.redoes else 1
    for pushed in facts.pushed:
        if facts.unsure(pushed):
            continue
        key = (pushed.connection, pushed.epoch, pushed.push.seq)
        before, attempt = latest.get(key), pushed.push.attempt
        latest[key] = attempt
        counts[*key, attempt] += 1
        if before is None or attempt > before:
            continue
        if attempt == 0 or counts[*key, attempt] > redone or redone == 1:
            detail = f"twice on one connection, attempt {before} and then {attempt}"
            yield pushed.breaks(RULE, detail)


def _settled(facts: Facts) -> Iterator[Violation]:
    """了结之后才拨号的连接上，只有续传（设备自己说没有它）可以再来一次。

    换着主的时候了结的不算：移出信箱那一步，新的主也许没有收到。
    """
    settled: dict[Pair, int] = {}
    for index, event in enumerate(facts.events):
        if isinstance(event, Settled) and not facts.losses.switching(event.user_id, event.at):
            for message_id in event.message_ids:
                settled.setdefault((event.user_id, message_id), index)
    for pushed in facts.pushed:
        at_index = settled.get((pushed.user_id, pushed.push.message_id))
        dialled_index, dialled = facts.dialled[pushed.connection]
        if at_index is None or at_index > dialled_index or facts.unsure(pushed):
            continue
        resumed = facts.opened[pushed.connection].resumed
        if not resumed or pushed.push.seq <= (dialled.last_seq or 0):
            yield pushed.breaks(RULE, f"again, although settled at event {at_index}")
