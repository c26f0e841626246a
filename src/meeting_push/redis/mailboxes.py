"""信箱的 Redis 操作：投递、读取、移出；溢出了的见 ``evictions.py``。

每个用户一组键，每一步对一个用户是原子的。
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import msgspec

from ..logs import logger
from ..mailbox_model import (
    Delivered,
    Delivery,
    EvictedBefore,
    MailboxHead,
    OpenedMailbox,
    ResumePoint,
    ResyncReason,
)
from .keys import Keys, literally
from .lean import Call, Groups, LeanConnection, Script, elsewhere
from .link import Argument, Command, ElsewhereError
from .replicas import Replicas

_deliver: Final = Script("here", "deliver")
_open: Final = Script("open")

_RESYNC: Final[dict[bytes, ResyncReason]] = {
    b"epoch_changed": "epoch_changed",
    b"too_far_behind": "too_far_behind",
}

#: 一次 Lua 调用里至多这么多个收件人：实测约 2 ms，再大就会推迟别人的命令。
CALL_RECIPIENTS: Final = 200
#: 一个用户至多记住这么多条过期而没确认的；更早的不再逐条说。
MAX_TOMBSTONES: Final = 1_000
#: 找信箱时一步看多少个键。
WALK_KEYS: Final = 1_000


#: 一次调用做得了的：哪几个收件人（从头数），哪些投递，要声明的键。
Part = tuple[Sequence[int], Sequence[Delivery], Sequence[Argument]]


@dataclass(frozen=True, slots=True)
class MailboxLimits:
    """``seq_ttl_ms`` 必须长于 ``ttl_ms``：seq 若先过期，会发出已用过的号。"""

    mailbox_max_entries: int
    log_max_entries: int
    ttl_ms: int
    seq_ttl_ms: int


class _Answer(NamedTuple):
    """一份的回答：每人两个数，溢出了的人；见 ``deliver.lua``。"""

    pairs: list[int]
    overfull: list[int]


class DeliveredBatch(NamedTuple):
    """``rows`` 与投递的各条、各收件人一一对应；``overfull`` 是信箱溢出了的：此刻还没有挤。"""

    rows: list[list[Delivered]]
    overfull: list[int]
    #: ``ahead`` 的回答；被拒绝的是异常。
    ahead: list[object]


class Mailboxes:
    """见模块说明；错误同 ``LeanConnection.execute``。"""

    #: 投递之后等的。
    replicas: Replicas | None = None

    def __init__(self, lean: LeanConnection, keys: Keys, limits: MailboxLimits) -> None:
        self._lean = lean
        self._keys = keys
        self._limits = limits
        self.seq_ttl_ms = limits.seq_ttl_ms
        #: 当前代次，写进新的 epoch；对账者发现 Redis 丢过数据时加大。
        self.generation = 0
        #: Redis 是空的，代次还没有换：新的 epoch 已用下一代，换的时候就不必再作废一次。
        self.emptied = False

    async def deliver(
        self, deliveries: Sequence[Delivery], *, publish: bool, ahead: Sequence[Command] = ()
    ) -> DeliveredBatch:
        """投递一批；对每个（用户, 消息）原子且幂等，整批不原子：失败后整批重来无害。

        ``ahead``：先于它们执行的，全部在一次写出里；没有给，就一次调用一个来回，让别人的命令插得进来。
        """
        owners = owners_of(deliveries)
        head, mailbox = self.head(publish=publish), self._keys.mailbox
        groups = self._lean.at_once(len(owners), lambda at: mailbox(owners[at]))
        early, done = await self._run(head, parts_of(deliveries, groups, len(owners)), ahead)
        if moving := elsewhere(done):
            groups = self._lean.slot_by_slot(moving, lambda at: self._touched(owners[at]))
            _, again = await self._run(head, parts_of(deliveries, groups, len(owners)))
            done = [one for one in done if not isinstance(one[1], ElsewhereError)] + again
        each = iter(as_given(done, len(owners)))
        rows = [
            [delivered(user_id, next(each), next(each)) for user_id in delivery.recipient_ids]
            for delivery in deliveries
        ]
        return DeliveredBatch(rows, [user_id for _, one in done for user_id in one.overfull], early)

    def _touched(self, user_id: int) -> list[str]:
        """``deliver.lua`` 为一个人碰的。"""
        keys = self._keys
        return [keys.mailbox(user_id), keys.message_log(user_id), keys.user_seq(user_id)]

    async def _run(
        self, head: Sequence[Argument], parts: Sequence[Part], ahead: Sequence[Command] = ()
    ) -> tuple[list[object], list[tuple[Sequence[int], Any]]]:
        """``ahead`` 的回答；各份是哪几个收件人，与它的 ``_Answer``，或 ``ElsewhereError``。"""
        counted = [
            (at, recipients, (keys, [*head, *call]))
            for at, (_, some, keys) in enumerate(parts)
            for recipients, call in calls_of(some)
        ]
        waves = waves_of([at for at, *_ in counted])
        early, replies = await self._send([call for *_, call in counted], waves, ahead)
        if self.replicas is not None:
            await self.replicas.wait(next(iter(keys), "") for _, _, keys in parts)
        answers: list[Any] = [_Answer([], []) for _ in parts]
        for (at, recipients, _), reply in zip(counted, replies, strict=True):
            if isinstance(reply, ElsewhereError):
                answers[at] = reply
            elif isinstance(answers[at], _Answer):
                answers[at].pairs.extend(reply[: 2 * recipients])
                answers[at].overfull.extend(map(int, reply[2 * recipients :]))
        return early, [(places, one) for (places, *_), one in zip(parts, answers, strict=True)]

    async def _send(
        self, calls: Sequence[Call], waves: Sequence[Sequence[int]], ahead: Sequence[Command]
    ) -> tuple[list[object], list[Any]]:
        """``ahead`` 的回答，各次调用的回答。"""
        lean = self._lean if self.replicas is None else self.replicas.lean
        if ahead:
            commands = [*ahead, *(_deliver.call(*one) for one in calls)]
            answers = await lean.execute_many(commands, tolerant=True)
            early = answers[: len(ahead)]
            return early, await _deliver.completed(lean, calls, answers[len(ahead) :])
        replies: list[Any] = [None] * len(calls)
        for wave in waves:
            for n, reply in zip(
                wave, await _deliver.run_all(lean, [calls[n] for n in wave]), strict=True
            ):
                replies[n] = reply
        return [], replies

    def head(self, *, publish: bool) -> list[Argument]:
        limits = self._limits
        return [
            *(self._keys.prefix, self.fresh_epoch()),
            *(limits.mailbox_max_entries, limits.log_max_entries),
            *(limits.ttl_ms, limits.seq_ttl_ms, self._lean.publishing if publish else ""),
        ]

    async def open(self, user_id: int, resume: ResumePoint | None) -> OpenedMailbox:
        """一次往返读出一切；新用户在此得到 epoch。"""
        return opened(await _open.run(self._lean, *self.question(user_id, resume)))

    def question(
        self, user_id: int, resume: ResumePoint | None
    ) -> tuple[list[Argument], list[Argument]]:
        """``open.lua`` 的键与参数；它的回答交给 ``opened``。"""
        keys = self._keys
        names: list[Argument] = [
            *(keys.user_seq(user_id), keys.mailbox(user_id)),
            *(keys.message_log(user_id), keys.expired_messages(user_id)),
            keys.evicted_messages(user_id),
        ]
        return names, [
            *(self.fresh_epoch(), self._limits.seq_ttl_ms),
            *((resume.epoch, resume.last_seq) if resume is not None else ("", 0)),
            int(resume is not None and resume.proven),
        ]

    async def entries(self, user_id: int) -> list[tuple[str, int]]:
        """信箱里全部的 (message_id, seq)，按 seq 升序。"""
        key = self._keys.mailbox(user_id)
        return id_seq_pairs(await self._lean.execute("ZRANGE", key, 0, -1, "WITHSCORES"))

    async def walk(self, cursor: bytes) -> tuple[bytes, list[MailboxHead]]:
        """从 ``cursor`` 起看约 ``WALK_KEYS`` 个键（哪种都算，约 1 ms 的 Redis），说出其中的信箱。

        从 ``b"0"`` 走到又是 ``b"0"``，一直在的信箱必在其中，可能不止一次。
        """
        match = f"{literally(self._keys.prefix)}offline_messages:{{*}}"
        cursor, found = await self._lean.execute(
            "SCAN", cursor, "MATCH", match, "COUNT", WALK_KEYS, "TYPE", "zset"
        )
        owners = [
            (key, owner) for key in found if (owner := key[key.rfind(b"{") + 1 : -1]).isdigit()
        ]
        answers = await self._lean.execute_many(
            [command for key, _ in owners for command in (("ZCARD", key), ("ZRANGE", key, 0, 0))]
        )
        rows = zip(owners, answers[::2], answers[1::2], strict=True)
        return cursor, [
            MailboxHead(int(owner), count, oldest[0].decode(errors="replace"))
            for (_, owner), count, oldest in rows
            if oldest
        ]

    async def remove(
        self, acks: Sequence[tuple[int, Sequence[str]]], also: Sequence[Command] = ()
    ) -> int:
        """把各用户的这些消息移出信箱，返回移出了几条。幂等。``also``：随着写出，回答不看。"""
        mailbox = self._keys.mailbox
        commands: list[Command] = [("ZREM", mailbox(user_id), *ids) for user_id, ids in acks if ids]
        # 一个人的信箱坏了，别人的照移
        replies = await self._lean.execute_many([*commands, *also], tolerant=True)
        removed = replies[: len(commands)]
        if set(map(type, removed)) <= {int}:
            return sum(removed)
        spoiled = [one for one in removed if isinstance(one, Exception)]
        logger.bind(mailboxes=len(spoiled), error=str(spoiled[0])).warning("mailbox_spoiled")
        return sum(one for one in removed if not isinstance(one, Exception))

    async def bury(self, user_id: int, entries: Sequence[tuple[str, int]]) -> int:
        """把过期的 (message_id, seq) 移出信箱，留下墓碑（同 ``expire.lua``）；返回条数。幂等。"""
        keys = self._keys
        graves = keys.expired_messages(user_id)
        scores = [value for message_id, seq in entries for value in (seq, message_id)]
        *_, removed = await self._lean.execute_many(
            [
                ("ZADD", graves, *scores),
                ("ZREMRANGEBYRANK", graves, 0, -MAX_TOMBSTONES - 1),
                ("PEXPIRE", graves, self._limits.ttl_ms),
                ("ZREM", keys.mailbox(user_id), *(message_id for message_id, _ in entries)),
            ]
        )
        return int(removed)

    async def membership(
        self, user_id: int, message_ids: Sequence[str]
    ) -> tuple[list[bool], list[bool]]:
        """各 id 在不在信箱、在不在日志（或墓碑里），次序不变。"""
        if not message_ids:
            return [], []
        keys = self._keys
        of = (keys.mailbox, keys.message_log, keys.expired_messages, keys.evicted_messages)
        held, *traces = await self._lean.execute_many(
            [("ZMSCORE", key(user_id), *message_ids) for key in of]
        )
        known = [any(score is not None for score in each) for each in zip(*traces, strict=True)]
        return [score is not None for score in held], known

    async def clear(self, user_id: int) -> int:
        """清空信箱（日志与 seq 不动），返回清掉了几条。"""
        key = self._keys.mailbox(user_id)
        return int(await self._lean.execute("ZREMRANGEBYRANK", key, 0, -1))

    async def missing(self, pairs: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
        """这些 (message_id, user_id) 里没有一点痕迹的：不在信箱，也没有投递过（日志）。"""
        traces = await self._traces(pairs)
        return [p for p, both in zip(pairs, traces, strict=True) if both == (None, None)]

    async def _traces(self, pairs: Sequence[tuple[str, int]]) -> list[tuple[object, object]]:
        """各在信箱、在日志的分数；坏了的键不算毫无痕迹：再投递一遍也投不进去。"""
        keys = self._keys
        commands = [
            ("ZSCORE", of(user_id), message_id)
            for message_id, user_id in pairs
            for of in (keys.mailbox, keys.message_log)
        ]
        scores = await self._lean.execute_many(commands, tolerant=True)
        return list(zip(scores[::2], scores[1::2], strict=True))

    async def lost(self, pairs: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
        """这些 (message_id, user_id) 里不在信箱的；也移出续传日志，再投递才得到新的 seq。

        只在日志里的，是信箱的键没了（被淘汰、被人删掉）：旧 seq 的洞由 ``resync`` 明说。
        """
        traces = list(zip(pairs, await self._traces(pairs), strict=True))
        logged = [pair for pair, (held, log) in traces if held is None and log is not None]
        await self._lean.execute_many(
            [("ZREM", self._keys.message_log(user_id), i) for i, user_id in logged], tolerant=True
        )
        return [pair for pair, (held, _) in traces if held is None]

    def fresh_epoch(self) -> str:
        return f"{self.generation + self.emptied}-{random.getrandbits(64):016x}"

    async def count(self, user_id: int) -> int:
        return int(await self._lean.execute("ZCARD", self._keys.mailbox(user_id)))


def owners_of(deliveries: Iterable[Delivery]) -> list[int]:
    """全部收件人，依次。"""
    return [user_id for one in deliveries for user_id in one.recipient_ids]


def parts_of(deliveries: Sequence[Delivery], groups: Groups, owners: int) -> list[Part]:
    """``groups``：``owners_of`` 的各组；``owners`` 是它的长度。"""
    if len(groups) == 1 and len(groups[0][0]) == owners:
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


def as_given(done: Sequence[tuple[Sequence[int], _Answer]], owners: int) -> list[int]:
    """各份的回答 → 照收件人的次序。"""
    if len(done) == 1:
        return done[0][1].pairs
    found = [0] * (2 * owners)
    for places, (pairs, _) in done:
        for at, seq, receivers in zip(places, pairs[::2], pairs[1::2], strict=True):
            found[2 * at : 2 * at + 2] = seq, receivers
    return found


def waves_of(parts: Sequence[int]) -> list[list[int]]:
    """各次调用归哪一份 → 先后几拨，一拨里一份至多一次。"""
    waves: list[list[int]] = []
    turns: Counter[int] = Counter()
    for n, part in enumerate(parts):
        if turns[part] == len(waves):
            waves.append([])
        waves[turns[part]].append(n)
        turns[part] += 1
    return waves


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


def opened(reply: Sequence[Any]) -> OpenedMailbox:
    """``open.lua`` 的回答。"""
    epoch, seq, verdict, mailbox, log, before, expired, evicted = reply
    return OpenedMailbox(
        epoch=epoch.decode(),
        seq=seq,
        resumed=verdict == b"resumed",
        resync_reason=_RESYNC.get(verdict),
        mailbox=id_seq_pairs(mailbox),
        log=id_seq_pairs(log),
        evicted_before=EvictedBefore(*map(int, before)) if None not in before else None,
        expired=[seq for _, seq in id_seq_pairs(expired)],
        evicted=id_seq_pairs(evicted),
    )


def id_seq_pairs(flat: Sequence[bytes]) -> list[tuple[str, int]]:
    """一个有序集合的各项；分数是浮点文本，2^53 以内精确。"""
    return [
        (member.decode(), int(float(score)))
        for member, score in zip(flat[::2], flat[1::2], strict=True)
    ]
