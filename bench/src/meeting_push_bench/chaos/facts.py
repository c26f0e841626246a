"""从历史与终局里读出的事实：各条规则共用的索引，只建一次，不做判断。"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from .final_state import FinalState, MessageRow
from .history import (
    Acked,
    Answered,
    AnyEvent,
    Dialled,
    Intended,
    Intent,
    Opened,
    Push,
    Received,
    Resynced,
    final_of,
    title,
)
from .losses import Losses
from .stillness import Stillness
from .violation import Violation

#: (user_id, message_id)：承诺都是对它说的。
Pair = tuple[int, str]


class Origin(NamedTuple):
    """一条消息的由来。"""

    post: int
    place: int
    sender_id: int
    intent: Intent


class Pushed(NamedTuple):
    """设备收到的一条；``epoch`` 是那一刻连接所在的。"""

    at_index: int
    connection: int
    user_id: int
    epoch: str
    live: bool
    push: Push

    def breaks(self, rule: str, detail: str) -> Violation:
        return Violation(
            rule=rule,
            detail=detail,
            user_id=self.user_id,
            message_id=self.push.message_id,
            connection=self.connection,
            index=self.at_index,
        )


class FirstAck(NamedTuple):
    """某人的设备第一次确认某条。"""

    at_index: int
    at: int


class Facts:
    def __init__(self, events: Sequence[AnyEvent]) -> None:
        self.events = events
        self.ended = final_of(events)
        self.final: FinalState = self.ended.final
        self.intended: dict[int, Intended] = {}
        self.answers: defaultdict[int, list[Answered]] = defaultdict(list)
        #: 连接 → 它的拨号事件的序号，与拨号事件。
        self.dialled: dict[int, tuple[int, Dialled]] = {}
        self.opened: dict[int, Opened] = {}
        self.pushed: list[Pushed] = []
        self.first_ack: dict[Pair, FirstAck] = {}
        self._origins: dict[str, Origin] = {}
        self._origin_of_title: dict[str, Origin] = {}
        self._epochs: dict[int, str] = {}
        #: 各连接上收到而还没有被 ``upto`` 涵盖的：message_id → seq。
        self._open_seqs: defaultdict[int, dict[str, int]] = defaultdict(dict)
        for index, event in enumerate(events):
            self._take(index, event)
        self._take_records(self.final.messages)
        self.stillness = Stillness(events)
        self.losses = Losses(events, self.stillness)

    # ── 查 ──────────────────────────────────────────────────────────────────

    @property
    def accepted(self) -> dict[str, Origin]:
        """得到过 2xx 的，与 SQL 里有记录的（提交了而没有得到回答）。"""
        return self._origins

    def origin(self, message_id: str, name: str) -> Origin | None:
        """按 id 找；没有得到回答、也没有记录的，按标题找。"""
        return self._origins.get(message_id) or self._origin_of_title.get(name)

    def unsure(self, pushed: Pushed) -> bool:
        """Redis 丢了数据，它的 seq 不作数（``Losses``）。"""
        at = self.events[pushed.at_index].at
        return self.losses.unsure(pushed.user_id, pushed.epoch, at, pushed.push.seq)

    def user_of(self, connection: int) -> int:
        return self.dialled[connection][1].user_id

    # ── 建 ──────────────────────────────────────────────────────────────────

    def _take(self, index: int, event: AnyEvent) -> None:
        match event:
            case Received():
                self._take_pushes(index, event)
            case Acked():
                self._take_ack(index, event)
            case Intended():
                self._take_intents(event)
            case Answered():
                self._take_answer(event)
            case Dialled():
                self.dialled[event.connection] = (index, event)
            case Opened():
                self.opened[event.connection] = event
                self._epochs[event.connection] = event.epoch
            case Resynced():
                if self._epochs[event.connection] != event.epoch:
                    self._epochs[event.connection] = event.epoch
                    self._open_seqs.pop(event.connection, None)  # 旧 epoch 的 seq 不再算数
            case _:
                pass

    def _take_intents(self, event: Intended) -> None:
        self.intended[event.post] = event
        for index, intent in enumerate(event.intents):
            origin = Origin(event.post, index, event.sender_id, intent)
            self._origin_of_title[title(event.post, index)] = origin

    def _take_answer(self, event: Answered) -> None:
        self.answers[event.post].append(event)
        for index, message_id in enumerate(event.message_ids):
            origin = self._origin_of_title.get(title(event.post, index))
            if origin is not None:
                self._origins.setdefault(message_id, origin)

    def _take_records(self, rows: Iterable[MessageRow]) -> None:
        for row in rows:
            origin = self._origin_of_title.get(row.title)
            if origin is not None:
                self._origins.setdefault(row.message_id, origin)

    def _take_pushes(self, index: int, event: Received) -> None:
        connection = event.connection
        user_id, epoch = self.user_of(connection), self._epochs[connection]
        open_seqs = self._open_seqs[connection]
        for push in event.pushes:
            self.pushed.append(Pushed(index, connection, user_id, epoch, event.live, push))
            open_seqs[push.message_id] = push.seq

    def _take_ack(self, index: int, event: Acked) -> None:
        user_id = self.user_of(event.connection)
        ack = FirstAck(index, event.at)
        for message_id in (*event.message_ids, *self._covered(event)):
            self.first_ack.setdefault((user_id, message_id), ack)

    def _covered(self, event: Acked) -> list[str]:
        """``upto`` 只涵盖在这条连接上推过的；设备只在收齐之后才用它，所以就是收到过的。"""
        if event.upto is None:
            return []
        open_seqs = self._open_seqs[event.connection]
        covered = [message_id for message_id, seq in open_seqs.items() if seq <= event.upto]
        for message_id in covered:
            del open_seqs[message_id]
        return covered
