"""没有人认领就往上说：触发 ``after_s`` 之后还没有认领的，告诉下一个渠道，每一级一次。

等多久按单调的钟；接手别的进程说过的，从它第一次说出去算起。
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from ...storage.notices import Standing
from ..alerts.model import Alert
from .config import Escalation
from .lane import LOOK_AGAIN_S


@dataclass(slots=True)
class _Open:
    alert: Alert
    since: float
    #: 说过了的那几级。
    done: set[str] = field(default_factory=set)
    look_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Due:
    alert: Alert
    to: tuple[str, ...]


class Escalations:
    def __init__(self, steps: Iterable[Escalation]) -> None:
        self._steps = tuple(steps)
        self._open: dict[str, _Open] = {}

    def open(self, alert: Alert, since: float, done: Collection[str] = ()) -> bool:
        """触发了；已经知道的无事，返回 False。``done``：从前升级到过的渠道。"""
        if not self._steps or alert.alert_id in self._open:
            return False
        self._open[alert.alert_id] = _Open(alert, since, set(done))
        return True

    def close(self, alert_id: str) -> None:
        self._open.pop(alert_id, None)

    def keep(self, firing: Collection[str]) -> None:
        """别的都不再触发了。"""
        self._open = {i: one for i, one in self._open.items() if i in firing}

    def clear(self) -> None:
        self._open.clear()

    def due_in(self, now: float) -> float | None:
        """再过几秒有到时的；没有则 None。"""
        times = [at for one in self._open.values() if (at := self._next(one)) is not None]
        return max(0.0, min(times) - now) if times else None

    def due(self, now: float) -> list[str]:
        """到时的告警。"""
        return [
            alert_id
            for alert_id, one in self._open.items()
            if (at := self._next(one)) is not None and at <= now
        ]

    def settle(
        self, ids: Iterable[str], standings: Mapping[str, Standing], now: float, now_ms: int
    ) -> Iterator[Due]:
        """认领了的不再问；静着音的过一会儿再看；别的该告诉谁。"""
        for alert_id in ids:
            one, standing = self._open.get(alert_id), standings.get(alert_id)
            if one is None:
                continue
            if standing is not None and standing.acknowledged_at is not None:
                one.done = {step.to for step in self._steps}
            elif standing is not None and (standing.silenced_until or 0) > now_ms:
                one.look_at = now + LOOK_AGAIN_S
            else:
                to = tuple(s.to for s in self._left(one) if one.since + s.after_s <= now)
                one.done.update(to)
                yield Due(one.alert, to)

    def _left(self, one: _Open) -> Iterator[Escalation]:
        return (step for step in self._steps if step.to not in one.done)

    def _next(self, one: _Open) -> float | None:
        step = next(self._left(one), None)
        return None if step is None else max(one.since + step.after_s, one.look_at)
