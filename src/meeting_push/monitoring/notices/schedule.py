"""何时该说：每个渠道攒着的，没有人认领而等着升级的。

纯的：``now`` 是单调的秒（等多久），``now_ms`` 是墙上的毫秒（只问安静的时段与静音）；
墙上的钟跳了，等的不跟着跳。
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from ...storage.alerts import Standing
from ..alerts.model import Alert, AlertState
from .channel import Channel, Escalation, QuietHours

#: 等着的多于它，丢最早恢复了的，没有就丢最早的；计数。
MOST_WAITING: Final = 5_000
#: 记得说过的这么多条；多了忘掉最早恢复了的。
MOST_TOLD: Final = 20_000
#: 由墙上的时刻决定的等候，至多这么久就再看一次：钟会跳，静音会解除。
LOOK_AGAIN_S: Final = 60.0
_WINDOW_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Waiting:
    alert: Alert
    #: 何时来的；之前不说的那一刻。
    since: float
    not_before: float = 0.0
    is_escalation: bool = False


class Lane:
    """一个渠道的等候：攒够 ``group_s`` 一并说，每分钟至多几份，夜里攒着，说过的不再说。

    一条告警在一个渠道上：等着 → 在路上 → 说过了。恢复只说给听过触发的；触发还没有说出去
    就恢复了的，只说恢复。
    """

    def __init__(self, channel: Channel, quiet: QuietHours | None = None) -> None:
        self.channel = channel
        #: 等不下而丢了的，只增。
        self.dropped = 0
        self._quiet = quiet
        self._waiting: dict[str, Waiting] = {}
        self._flying: dict[str, Waiting] = {}
        self._told: dict[str, AlertState] = {}
        self._sent_at: deque[float] = deque(maxlen=max(1, channel.rate_per_min))
        self._rest_until = 0.0

    def __len__(self) -> int:
        return len(self._waiting) + len(self._flying)

    def remember(self, alert_id: str, state: AlertState) -> None:
        """说过了；换了一个进程来说，从记录里读到的，正等着的就不必再等。"""
        waiting = self._waiting.get(alert_id)
        if waiting is not None and waiting.alert.state is state and not waiting.is_escalation:
            del self._waiting[alert_id]
        if self._told.get(alert_id) is not AlertState.RESOLVED:
            self._told[alert_id] = state

    # ── 来了一条 ─────────────────────────────────────────────────────────────

    def offer(self, alert: Alert, now: float, *, remembers: bool = True) -> None:
        """``remembers`` 为假：说过什么还没有读到，不认识的恢复也说。"""
        known = alert.alert_id in self._waiting or alert.alert_id in self._flying
        heard = known or self._told.get(alert.alert_id) is AlertState.FIRING
        grave = alert.severity.rank >= self.channel.min_severity.rank
        only_if_heard = remembers and alert.state is AlertState.RESOLVED
        if heard or (grave and not only_if_heard):
            self.press(alert, now)

    def press(self, alert: Alert, now: float, *, is_escalation: bool = False) -> None:
        """不问轻重：别的渠道失败了交来的，升级来的（它要再说一遍）。"""
        told = self._told.get(alert.alert_id)
        if told is AlertState.RESOLVED or (told is alert.state and not is_escalation):
            return
        for before in (self._flying, self._waiting):
            entry = before.get(alert.alert_id)
            if entry and entry.alert.state is alert.state and not is_escalation:
                return
            if entry and entry.alert.state is AlertState.RESOLVED:
                return
        entry = self._waiting.get(alert.alert_id)
        since, not_before = (entry.since, entry.not_before) if entry else (now, 0.0)
        is_escalation = is_escalation or (entry is not None and entry.is_escalation)
        self._waiting[alert.alert_id] = Waiting(alert, since, not_before, is_escalation)
        self._make_room()

    def _make_room(self) -> None:
        if len(self._waiting) <= MOST_WAITING:
            return
        over = (i for i, w in self._waiting.items() if w.alert.state is AlertState.RESOLVED)
        del self._waiting[next(over, next(iter(self._waiting)))]
        self.dropped += 1

    # ── 说出去 ───────────────────────────────────────────────────────────────

    def due_in(self, now: float, now_ms: int) -> float | None:
        """再过几秒有一份要说；0 = 现在，None = 没有等着的。"""
        if not self._waiting:
            return None
        free_at = max(self._rest_until, now + self.rate_wait(now))
        first = min(self._ready_at(w, now, now_ms, grouped=True) for w in self._waiting.values())
        return max(0.0, max(first, free_at) - now)

    def take(self, now: float, now_ms: int) -> list[Waiting]:
        """取走此刻能说的全部（连同刚来的）；之后 ``told``、``put_back``、``hand_over`` 之一。"""
        ready = [
            w
            for w in self._waiting.values()
            if self._ready_at(w, now, now_ms, grouped=False) <= now
        ]
        for waiting in ready:
            alert_id = waiting.alert.alert_id
            self._flying[alert_id] = self._waiting.pop(alert_id)
        return ready

    def _ready_at(self, waiting: Waiting, now: float, now_ms: int, *, grouped: bool) -> float:
        at = waiting.not_before
        if grouped:
            at = max(at, waiting.since + self.channel.group_s)
        if self._quiet is not None and self._quiet.hold(waiting.alert.severity, now_ms):
            at = max(at, now + min(self._quiet.left_s(now_ms) + 0.001, LOOK_AGAIN_S))
        return at

    def rate_wait(self, now: float) -> float:
        """还要等几秒才不超过每分钟的份数。"""
        if not self.channel.rate_per_min or len(self._sent_at) < self.channel.rate_per_min:
            return 0.0
        return max(0.0, self._sent_at[0] + _WINDOW_S - now)

    def attempted(self, now: float) -> None:
        """发了一次（成败都算），回答之后叫：对方那里不会比这更晚。"""
        self._sent_at.append(now)

    def told(self, batch: Iterable[Waiting]) -> None:
        for waiting in batch:
            self._flying.pop(waiting.alert.alert_id, None)
            self.remember(waiting.alert.alert_id, waiting.alert.state)
        if len(self._told) > MOST_TOLD:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        over = [i for i, state in self._told.items() if state is AlertState.RESOLVED]
        for alert_id in over[: len(self._told) - MOST_TOLD + MOST_TOLD // 10]:
            del self._told[alert_id]

    def put_back(self, batch: Sequence[Waiting], now: float, pause_s: float) -> None:
        """没有说成；整个渠道歇 ``pause_s``，其间来的并进同一份。"""
        self._rest_until = max(self._rest_until, now + pause_s)
        self.put_off(batch, 0.0)

    def put_off(self, batch: Sequence[Waiting], not_before: float) -> None:
        """这几条（静了音的）到那时再看。"""
        newer = self._waiting
        older = {w.alert.alert_id: self._later(w, not_before) for w in batch}
        self._land(batch)
        self._waiting = {**older, **newer}

    def forget_over(self, firing: Collection[str]) -> None:
        """静着音的时候恢复了的，没有人来说：不再等。"""
        over = [
            alert_id
            for alert_id, one in self._waiting.items()
            if one.not_before and alert_id not in firing
        ]
        for alert_id in over:
            del self._waiting[alert_id]

    def _later(self, waiting: Waiting, not_before: float) -> Waiting:
        return Waiting(waiting.alert, waiting.since, not_before, waiting.is_escalation)

    def hand_over(self, batch: Sequence[Waiting]) -> list[Waiting]:
        """没有说成，由别的渠道说：路上的时候恢复了的，交出恢复。"""
        self._land(batch)
        return [self._waiting.pop(w.alert.alert_id, w) for w in batch]

    def _land(self, batch: Iterable[Waiting]) -> None:
        for waiting in batch:
            self._flying.pop(waiting.alert.alert_id, None)


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
    """没有人认领就往上说：触发 ``after_s`` 之后还没有认领的，告诉下一个渠道，每一级一次。

    接手别的进程说过的，从它第一次说出去算起。
    """

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
