"""异步的切换丢了什么：主没了而副本还没有收到的，Redis 里没有了，由 SQL 再来。

怎样看出来：换主的故障之后不久，一个人的 epoch 换成了新的。旧的 epoch 从那次故障起就不作数：提升的
副本把已发出的 seq 再用一遍，直到大家得到 ``resync``。换主而 epoch 没有换的，什么也没有丢，各条规则
一点不放松；没有换过主的运行里，这里什么也没有。
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from .history import AnyEvent, Dialled, Faulted, Opened, Recovered, Resynced, Switched

#: 主换成了别的。
MASTER_FAULTS: Final = frozenset({"kill_master", "hang_master", "part_master", "fail_over"})
#: 从故障到大家得知换了代次，至多这么久：选出新的主、几拍对账、安顿，忙着的机器。
TOLD_WITHIN_MS: Final = 60_000
#: 换了代次之后，从 SQL 再来的都到齐，至多这么久。
REDRIVEN_WITHIN_MS: Final = 30_000
#: 没有人要它换而换了的（机器太忙，主答得晚）：从这么久之前算起。
UNASKED_MS: Final = 10_000

Span = tuple[int, int]
#: （用户，epoch）。
Line = tuple[int, str]


class Losses:
    """``abandoned``：不作数了的 epoch → 从何时起；``switches``：换主的前后；``spans``：丢了，到
    补齐。
    """

    def __init__(self, events: Sequence[AnyEvent]) -> None:
        self.switches = sorted(_switches(events))
        self.abandoned: dict[Line, int] = {}
        self.spans: list[Span] = []
        #: 不是头一个 epoch 的：它开始之前的 seq 不欠谁。
        self.renewed: set[Line] = set()
        self._read(events)

    def unsure(self, user_id: int, epoch: str, at: int) -> bool:
        """那一刻那个 epoch 里的 seq 已不作数。"""
        since = self.abandoned.get((user_id, epoch))
        return since is not None and at >= since

    def during(self, at: int) -> bool:
        """正丢着、补着。"""
        return any(start <= at <= end for start, end in self.spans)

    def switching(self, at: int) -> bool:
        """正换着主：旧的主收下的，新的也许没有。"""
        return any(start <= at <= end for start, end in self.switches)

    def _read(self, events: Sequence[AnyEvent]) -> None:
        users: dict[int, int] = {}
        newest: dict[int, str] = {}
        for event in events:
            match event:
                case Dialled():
                    users[event.connection] = event.user_id
                case Opened() | Resynced():
                    user_id = users[event.connection]
                    before = newest.setdefault(user_id, event.epoch)
                    if before != event.epoch and (user_id, event.epoch) not in self.abandoned:
                        newest[user_id] = event.epoch
                        self._replaced((user_id, before), (user_id, event.epoch), event.at)
                case _:
                    pass

    def _replaced(self, old: Line, new: Line, at: int) -> None:
        lately = [start for start, _ in self.switches if at - TOLD_WITHIN_MS <= start <= at]
        if lately:
            self.abandoned[old] = min(lately)
            self.renewed.add(new)
            self.spans.append((min(lately), at + REDRIVEN_WITHIN_MS))


def _switches(events: Sequence[AnyEvent]) -> Iterator[Span]:
    """要它换的，从故障到恢复；没有人要它换的，前后各一段。"""
    began: int | None = None
    asked: list[Span] = []
    for event in events:
        match event:
            case Faulted() if event.kind in MASTER_FAULTS:
                began = event.at
            case Recovered() if event.kind in MASTER_FAULTS and began is not None:
                asked.append((began, event.at))
                began = None
            case _:
                pass
    yield from asked
    for event in events:
        if isinstance(event, Switched) and not any(a <= event.at <= b for a, b in asked):
            yield event.at - UNASKED_MS, event.at


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
