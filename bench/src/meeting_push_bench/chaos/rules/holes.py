"""DLV-5：没有悄悄的洞。

一条连接收到 seq 为 s 的一帧时，比 s 小的都该已经到了它手里，别的设备确认过的也一样（E1）：

- 单独的 ``new_message``（实时）：一条不缺，因为补发完了才有实时；
- ``batch``（补发，紧急者在前）：优先级不低于它的一条不缺，低的可以还在路上；
- welcome 的 seq 及以前的：没有人确认过的；续传（resumed）的，``last_seq`` 之后的全部；
- welcome 的 ``pending`` 不得少于欠它的。

被 ``gap`` 说出来的不算；``resync`` 之后只欠没有人确认过的。谁也没收到过、信箱与日志里也没有的
seq，是最彻底的洞。不再有下一帧的，由 ``arrival`` 去问。
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from typing import Final

from ..facts import Facts, Pair
from ..history import AnyEvent, Closed, Gapped, Opened, Received, Resynced
from ..violation import Violation


class Owed:
    """一条连接欠它的设备哪些 seq：按优先级分开的小顶堆，付清的懒惰地移走。

    ``top``：到此为止的 seq 都已算过账。
    """

    def __init__(self, top: int) -> None:
        self.top = top
        #: 别的设备确认了也得给：续传许下的，与它在线时发出的。
        self._mandatory: set[int] = set()
        self._owed: set[int] = set()
        self._announced: list[tuple[int, int]] = []
        self._lanes: dict[int, list[int]] = {}

    def add(self, seq: int, priority: int, *, mandatory: bool = False) -> None:
        if mandatory:
            self._mandatory.add(seq)
        said = any(low <= seq <= high for low, high in self._announced)
        if seq not in self._owed and not said:
            self._owed.add(seq)
            heapq.heappush(self._lanes.setdefault(priority, []), seq)

    def paid(self, seq: int) -> None:
        self._owed.discard(seq)
        self._mandatory.discard(seq)

    def forgiven(self, seq: int) -> None:
        """别的设备确认了它。"""
        if seq not in self._mandatory:
            self._owed.discard(seq)

    def announced(self, from_seq: int, to_seq: int) -> None:
        """``gap`` 说出来的洞不算洞。"""
        self._announced.append((from_seq, to_seq))
        for seq in [each for each in self._owed if from_seq <= each <= to_seq]:
            self.paid(seq)

    def overdue(self, before_seq: int, least_priority: int) -> Iterator[int]:
        """``before_seq`` 之前、优先级不低于 ``least_priority`` 而还欠着的；说过一次就付清。"""
        for priority, lane in self._lanes.items():
            if priority < least_priority:
                continue
            while lane and (lane[0] not in self._owed or lane[0] < before_seq):
                seq = heapq.heappop(lane)
                if seq in self._owed:
                    self.paid(seq)
                    yield seq

    def __len__(self) -> int:
        return len(self._owed)


RULE = "holes"
#: 谁也不知道内容的 seq 当作最高优先级：任何一帧都不该越过它。
_UNKNOWN: Final = 10

_Line = tuple[int, str]


def holes(facts: Facts) -> Iterator[Violation]:
    ledger = _Ledger(facts)
    for index, event in enumerate(facts.events):
        yield from ledger.take(index, event)


class _Ledger:
    """按历史的次序走一遍；``_Line`` 是（用户，epoch），各有自己的 seq。"""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._ids: defaultdict[_Line, dict[int, str]] = defaultdict(dict)
        self._known: dict[int, list[int]] = {}
        self._lines_of: defaultdict[int, list[_Line]] = defaultdict(list)
        #: 各人在哪个 epoch 里都算：换了 epoch，已发出的号照旧是那一条，也许到那时才头一次推。
        self._ever: defaultdict[int, dict[int, str]] = defaultdict(dict)
        self._seqs: defaultdict[Pair, set[int]] = defaultdict(set)
        self._acked_at: defaultdict[int, list[Pair]] = defaultdict(list)
        self._lines: dict[int, _Line] = {}
        self._owed: dict[int, Owed] = {}
        self._open: defaultdict[_Line, set[int]] = defaultdict(set)
        #: 已发出而没人确认的 seq，与已算到哪个 seq。
        self._unacked: defaultdict[_Line, set[int]] = defaultdict(set)
        self._assigned: defaultdict[_Line, int] = defaultdict(int)
        self._acked: set[Pair] = set()
        self._learn()

    def _learn(self) -> None:
        for pushed in self._facts.pushed:
            if self._facts.unsure(pushed):
                continue
            self._ids[pushed.user_id, pushed.epoch][pushed.push.seq] = pushed.push.message_id
        for box in self._facts.final.mailboxes:
            for message_id, seq in (*box.entries, *box.log):
                self._ids[box.user_id, box.epoch].setdefault(seq, message_id)
        for (user_id, message_id), ack in self._facts.first_ack.items():
            self._acked_at[ack.at_index].append((user_id, message_id))
        for line, ids in self._ids.items():
            self._lines_of[line[0]].append(line)
            for seq, message_id in ids.items():
                self._ever[line[0]].setdefault(seq, message_id)
                self._seqs[line[0], message_id].add(seq)

        self._known = {user_id: sorted(ids) for user_id, ids in self._ever.items()}

    def take(self, index: int, event: AnyEvent) -> Iterator[Violation]:
        for user_id, message_id in self._acked_at.get(index, ()):
            self._acked.add((user_id, message_id))
            self._forgive(user_id, message_id)
        match event:
            case Opened():
                yield from self._opened(index, event)
            case Received():
                yield from self._received(index, event)
            case Gapped():
                self._owed[event.connection].announced(event.from_seq, event.to_seq)
            case Resynced():
                self._resynced(event)
            case Closed():
                self._closed(event.connection)
            case _:
                pass

    def _forgive(self, user_id: int, message_id: str) -> None:
        for line in self._lines_of[user_id]:
            for seq in self._seqs.get((user_id, message_id), ()):
                if self._id(line, seq) != message_id:
                    continue
                self._unacked[line].discard(seq)
                for connection in self._open[line]:
                    self._owed[connection].forgiven(seq)

    def _opened(self, index: int, event: Opened) -> Iterator[Violation]:
        user_id = self._facts.user_of(event.connection)
        last_seq = self._facts.dialled[event.connection][1].last_seq or 0
        line, since = (user_id, event.epoch), last_seq if event.resumed else None
        owed = self._start(event.connection, line, event.seq, event.at, since)
        if event.pending < len(owed):
            yield Violation(
                rule=RULE,
                detail=f"welcome says {event.pending} pending, {len(owed)} are owed",
                user_id=user_id,
                connection=event.connection,
                index=index,
            )

    def _start(
        self, connection: int, line: _Line, seq: int, at: int, promised: int | None = None
    ) -> Owed:
        """``promised``：续传许下了它之后的全部。Redis 丢了的那一段不作数。"""
        seq = self._facts.losses.limit(line, at, seq)
        self._closed(connection)
        self._lines[connection] = line
        self._open[line].add(connection)
        if line in self._facts.losses.renewed and line not in self._assigned:
            self._assigned[line] = seq  # 更早的 seq 是旧的 epoch 里发出的
        self._assign(line, seq)
        owed = self._owed[connection] = Owed(seq)
        for each in self._unacked[line]:
            if each <= seq:
                owed.add(each, self._priority(line, each))
        if promised is not None:
            for each in self._between(line, promised, seq):
                owed.add(each, self._priority(line, each), mandatory=True)
        return owed

    def _closed(self, connection: int) -> None:
        line = self._lines.get(connection)
        if line is not None:
            self._open[line].discard(connection)

    def _resynced(self, event: Resynced) -> None:
        """从头记账：没确认的仍然要来。"""
        line = self._lines[event.connection]
        self._start(event.connection, (line[0], event.epoch), event.seq, event.at)

    def _received(self, index: int, event: Received) -> Iterator[Violation]:
        connection, line = event.connection, self._lines[event.connection]
        owed = self._owed[connection]
        for push in event.pushes:
            if self._facts.losses.unsure(*line, event.at, push.seq):
                continue  # Redis 丢了数据，这个 seq 不作数了
            self._assign(line, push.seq)
            for seq in self._between(line, owed.top, push.seq - 1):
                owed.add(seq, self._priority(line, seq), mandatory=True)
            owed.top = max(owed.top, push.seq)
            owed.paid(push.seq)
            for seq in owed.overdue(push.seq, 0 if event.live else push.priority):
                yield Violation(
                    rule=RULE,
                    detail=f"got seq {push.seq} while seq {seq} is owed and was not announced",
                    user_id=line[0],
                    message_id=self._id(line, seq),
                    connection=connection,
                    index=index,
                )

    def _assign(self, line: _Line, seq: int) -> None:
        """``seq`` 及以下的都已发出；其中已确认过的不再欠谁。"""
        for each in self._between(line, self._assigned[line], seq):
            if not self._is_acked(line, each):
                self._unacked[line].add(each)
        self._assigned[line] = max(self._assigned[line], seq)

    def _between(self, line: _Line, low: int, high: int) -> Iterator[int]:
        """``low`` 之后、到 ``high`` 的 seq；谁也不知道的一段只给头尾：一段几万个，也是一个洞。"""
        known = self._known.get(line[0], [])
        for seq in known[bisect_right(known, low) : bisect_right(known, high)]:
            yield from {low + 1, seq - 1} if low + 1 < seq else ()
            yield seq
            low = seq
        yield from {low + 1, high} if low < high else ()

    def _id(self, line: _Line, seq: int) -> str | None:
        return self._ids[line].get(seq) or self._ever[line[0]].get(seq)

    def _is_acked(self, line: _Line, seq: int) -> bool:
        message_id = self._id(line, seq)
        return message_id is not None and (line[0], message_id) in self._acked

    def _priority(self, line: _Line, seq: int) -> int:
        message_id = self._id(line, seq)
        origin = self._facts.accepted.get(message_id) if message_id is not None else None
        return _UNKNOWN if origin is None else origin.intent.priority
