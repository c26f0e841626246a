"""异步的切换丢了什么：主没了而副本还没有收到的，Redis 里没有了，由 SQL 再来。

产品换了主就换 epoch，丢没丢都换，所以换了 epoch 证明不了丢过。证明是 ``Kept``：主没了、还没有换的
时候，后来换上来的那个副本有各人的哪个 epoch、到哪个 seq。旧的 epoch 里比它大的才不作数（丢了的，
与新的主再用一遍的），从那次故障起；到它为止的照旧一条不放过，别的主的人也一样。请它让位的、看晚了的
没有 ``Kept``，整个旧的 epoch 不作数。没有换过主的运行里，这里什么也没有。
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from .history import (
    AnyEvent,
    Dialled,
    Faulted,
    Kept,
    KeptSeq,
    Opened,
    Recovered,
    Resynced,
    Switched,
)
from .stillness import Span, Stillness

#: 主换成了别的。
MASTER_FAULTS: Final = frozenset({"kill_master", "hang_master", "part_master", "fail_over"})
#: 从故障恢复（各进程就绪）到大家得知换了代次，至多这么久：几拍对账、安顿，忙着的机器。
TOLD_WITHIN_MS: Final = 60_000
#: 换了代次之后，从 SQL 再来的都到齐，至多这么久。
REDRIVEN_WITHIN_MS: Final = 60_000
#: 没有人要它换而换了的（机器太忙，主答得晚）：从这么久之前算起。
UNASKED_MS: Final = 10_000
#: 换主前后这么久之内头一次见到的 epoch，也许是旧的主给的。
_BORN_WITHIN_MS: Final = 5_000
#: 旁观的晚这么久才看见换了。
_LATE_MS: Final = 2_000

#: （用户，epoch）。
Line = tuple[int, str]


class Switch(NamedTuple):
    """一次换主的前后。``kept``：换上来的有什么，只有那个主的人；None = 没有证据。"""

    start: int
    end: int
    at: int
    kept: Mapping[int, KeptSeq] | None

    def concerns(self, user_id: int) -> bool:
        return self.kept is None or user_id in self.kept

    def kept_of(self, line: Line, born: int) -> int | None:
        """那个 epoch 里到哪个 seq 还在；None = 这次换主与它无关。"""
        if self.kept is None:
            return 0
        found = self.kept.get(line[0])
        if found is None:
            return None
        if found.epoch == line[1]:
            return found.seq
        return None if born > self.at + _BORN_WITHIN_MS else 0


class Abandoned(NamedTuple):
    """从 ``since`` 起，比 ``kept`` 大的 seq 不作数；``told``：大家得知了，开始补。"""

    since: int
    kept: int
    told: int


class Losses:
    """``abandoned``：不作数了的 epoch；``spans``：换了，到补齐。"""

    def __init__(self, events: Sequence[AnyEvent], stillness: Stillness) -> None:
        self._stillness = stillness
        self.switches = sorted(_switches(events), key=lambda each: each.start)
        #: 换过主，或搬过槽。
        self.redoes = bool(self.switches) or any(
            isinstance(event, Faulted) and event.kind == "move_slots" for event in events
        )
        self.abandoned: dict[Line, Abandoned] = {}
        self.spans: list[Span] = []
        #: 不是头一个 epoch 的：它开始之前的 seq 不欠谁。
        self.renewed: set[Line] = set()
        self._born: dict[Line, int] = {}
        self._passed: set[Line] = set()
        self._abandoned_of: defaultdict[int, list[Abandoned]] = defaultdict(list)
        self._read(events)

    def unsure(self, user_id: int, epoch: str, at: int, seq: int) -> bool:
        """那一刻那个 epoch 里的这个 seq 已不作数。"""
        return seq > self.limit((user_id, epoch), at, seq)

    def limit(self, line: Line, at: int, seq: int) -> int:
        """``seq``，或那一刻那个 epoch 里还作数的最大的。"""
        gone = self.abandoned.get(line)
        return seq if gone is None or at < gone.since else min(seq, gone.kept)

    def lacking(self, user_id: int, at: int, seq: int) -> bool:
        """正丢着、补着，而且丢的会有 ``seq``（0 = 不知道）。"""
        return any(
            gone.since <= at
            and self._stillness.moving(gone.told, at) <= REDRIVEN_WITHIN_MS
            and (not seq or seq > gone.kept)
            for gone in self._abandoned_of[user_id]
        )

    def switching(self, user_id: int, at: int) -> bool:
        """正换着他的主：旧的主收下的，新的也许没有。"""
        return any(s.start <= at <= s.end and s.concerns(user_id) for s in self.switches)

    def _read(self, events: Sequence[AnyEvent]) -> None:
        users: dict[int, int] = {}
        newest: dict[int, str] = {}
        for event in events:
            match event:
                case Dialled():
                    users[event.connection] = event.user_id
                case Opened() | Resynced():
                    line = (users[event.connection], event.epoch)
                    self._born.setdefault(line, event.at)
                    before = newest.setdefault(*line)
                    if before != event.epoch and line not in self._passed:
                        newest[line[0]] = event.epoch
                        self._replaced((line[0], before), line, event.at)
                case _:
                    pass

    def _replaced(self, old: Line, new: Line, at: int) -> None:
        self._passed.add(old)
        lately = [each for each in self.switches if self._lately(each, at)]
        if not lately:
            return
        self.renewed.add(new)
        self.spans.append((lately[0].start, at + REDRIVEN_WITHIN_MS))
        kept = [(each, each.kept_of(old, self._born[old])) for each in lately]
        lost = [(each.start, seq) for each, seq in kept if seq is not None]
        if lost:
            gone = Abandoned(min(s for s, _ in lost), min(seq for _, seq in lost), at)
            self.abandoned[old] = gone
            self._abandoned_of[old[0]].append(gone)

    def _lately(self, switch: Switch, at: int) -> bool:
        told_after = self._stillness.moving(switch.end, at)
        return switch.start <= at and told_after <= TOLD_WITHIN_MS


def _switches(events: Sequence[AnyEvent]) -> Iterator[Switch]:
    """要它换的，从故障到恢复；没有人要它换的，前后各一段。"""
    seen = [event for event in events if isinstance(event, Switched)]
    asked = list(_asked(events))
    for start, end, kept in asked:
        to = {each.to for each in seen if start <= each.at <= end + _LATE_MS}
        sure = kept is not None and to <= {kept.node}
        seqs = {each.user_id: each for each in kept.seqs} if kept is not None and sure else None
        yield Switch(start, end, kept.at if kept is not None else end, seqs)
    for each in seen:
        if not any(start <= each.at <= end + _LATE_MS for start, end, _ in asked):
            yield Switch(each.at - UNASKED_MS, each.at, each.at, None)


def _asked(events: Sequence[AnyEvent]) -> Iterator[tuple[int, int, Kept | None]]:
    began: int | None = None
    kept: Kept | None = None
    for event in events:
        match event:
            case Faulted() if event.kind in MASTER_FAULTS:
                began, kept = event.at, None
            case Kept():
                kept = event
            case Recovered() if event.kind in MASTER_FAULTS and began is not None:
                yield began, event.at, kept
                began = None
            case _:
                pass


def redriven_by(logs: Mapping[str, str]) -> int:
    """各进程的日志 → 对账者放回发件箱几条；一个进程里的数只增，重启从头数起。"""
    total = 0
    for text in logs.values():
        before = 0
        for line in text.splitlines():
            if "redrive_finished" in line:
                now = int(line.partition("messages=")[2].split()[0])
                total += now - before if now >= before else now
                before = now
    return total
