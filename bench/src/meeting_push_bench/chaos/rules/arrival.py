"""DLV-5，逐台设备：连着的时候发布的，到了；没到的，有 ``gap`` 或 ``resync`` 说过。

别的设备收到了、确认了都不算数（E1）。何时算“没到”：别的设备已收到它，此后这条连接又连着、它的
网关又无人打扰地过了 ``GRACE_MS``。只看时间够不够，不看次序：次序归 ``holes``、``order``。
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Final

from ..disturbances import Disturbances
from ..facts import Facts
from ..history import Closed, Ended, Gapped, Opened, Received, Resynced
from ..violation import Violation

RULE: Final = "arrival"
GRACE_MS: Final = 10_000

_Line = tuple[int, str]


class _Stay:
    """一条连接在一个 epoch 里：该有 ``after`` 之后的；``got`` 是到了的与说过的。"""

    def __init__(self, line: _Line, after: int, at: int) -> None:
        self.line = line
        self.after = after
        self.since = at
        self.got: set[int] = set()


def arrival(facts: Facts) -> Iterator[Violation]:
    return _Ledger(facts).violations()


class _Ledger:
    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._seen: defaultdict[_Line, dict[int, tuple[int, str]]] = defaultdict(dict)
        for pushed in facts.pushed:
            if facts.unsure(pushed):
                continue
            at = facts.events[pushed.at_index].at
            line = self._seen[pushed.user_id, pushed.epoch]
            line.setdefault(pushed.push.seq, (at, pushed.push.message_id))
        self._ordered = {line: sorted(seqs) for line, seqs in self._seen.items()}
        gateways = 1 + max((d.gateway for _, d in facts.dialled.values()), default=0)
        self._disturbances = Disturbances(facts, gateways, GRACE_MS)
        self._stays: dict[int, _Stay] = {}

    def violations(self) -> Iterator[Violation]:
        for index, event in enumerate(self._facts.events):
            match event:
                case Opened():
                    self._open(event)
                case Received():
                    self._got(event.connection, (push.seq for push in event.pushes))
                case Gapped():
                    self._got(event.connection, range(event.from_seq, event.to_seq + 1))
                case Resynced():
                    yield from self._leave(event.connection, index, event.at)
                    self._start(event.connection, event.epoch, event.seq, event.at)
                case Closed():
                    yield from self._leave(event.connection, index, event.at)
                case Ended():
                    for connection in list(self._stays):
                        yield from self._leave(connection, index, event.at)
                case _:
                    pass

    def _open(self, event: Opened) -> None:
        """续传的从自己的位置算起。"""
        last_seq = self._facts.dialled[event.connection][1].last_seq or 0
        after = last_seq if event.resumed else event.seq
        self._start(event.connection, event.epoch, after, event.at)

    def _got(self, connection: int, seqs: Iterable[int]) -> None:
        if (stay := self._stays.get(connection)) is not None:
            stay.got.update(seqs)

    def _start(self, connection: int, epoch: str, after: int, at: int) -> None:
        line = (self._facts.user_of(connection), epoch)
        self._stays[connection] = _Stay(line, after, at)

    def _leave(self, connection: int, index: int, at: int) -> Iterator[Violation]:
        stay = self._stays.pop(connection, None)
        if stay is None:
            return
        for seq, message_id in self._missing(connection, stay, at):
            yield Violation(
                rule=RULE,
                detail=f"seq {seq} never came, and nothing said so",
                user_id=stay.line[0],
                message_id=message_id,
                connection=connection,
                index=index,
            )

    def _missing(self, connection: int, stay: _Stay, at: int) -> Iterator[tuple[int, str]]:
        gateway = self._facts.dialled[connection][1].gateway
        seqs, seen = self._ordered.get(stay.line, []), self._seen[stay.line]
        for seq in seqs[bisect_right(seqs, stay.after) :]:
            first_at, message_id = seen[seq]
            if seq in stay.got or first_at + GRACE_MS > at:
                continue
            if self._facts.losses.unsure(*stay.line, stay.since, seq):
                continue
            if self._disturbances.due(gateway, max(first_at, stay.since)) <= at:
                yield seq, message_id
