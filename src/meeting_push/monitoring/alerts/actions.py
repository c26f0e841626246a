"""自动处理：一条告警触发着，做能做的那件事，做了什么、成没成记在它的时间线上。

评估的进程定做什么（``RecoveryActions``），写在自己的报告里；各进程看见请自己做的就做（``OrderTaker``），
做成没成写回自己的报告。报告走 Redis 的哈希：聋了的听不到控制频道，没有连接的不听，报告谁都看。
每一样都能关，都有节制（``Allowance``）。
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple

from ulid import ULID

from ...clock import Clock, now_ms
from ...errors import MeetingPushError
from ...logs import RepeatedWarning, logger
from ...node_identity import NodeIdentity
from ...storage.alerts import AlertRepository, EventRow
from ...supervision import periodically, summoned
from ..figures import Seen
from ..metrics import Sample
from ..report import ERRAND_S, Done, Errands, Order
from .book import ALERTMANAGER, SOURCE
from .config import ActionConfig
from .evaluation import NODE
from .model import Alert
from .rule import gauge

RESUBSCRIBE: Final = "resubscribe"
RESTART: Final = "restart_stalled_loop"
PAUSE: Final = "pause_accepting"
REQUEUE: Final = "requeue_dead_letters"
#: 规则 → 请那个进程做的。
ASKED: Final = {"deaf_node": RESUBSCRIBE, "consumer_stalled": RESTART}
#: 它们触发过的时候，依赖不在。
OUTAGES: Final = ("redis_unavailable", "database_unavailable")

_EVERY_S: Final = 60.0
#: 做一件至多这么久。
DO_WITHIN_S: Final = 15.0
#: 没有人再说，停收就到此为止：说的进程每轮都说。
PAUSE_FOR_S: Final = 30.0
#: 队列降到阈值的这么多才再收：不在线上来回。
RESUME_RATIO: Final = 0.75
#: 依赖好了这么久才把死信再送，一分钟至多这么多封。
WELL_S: Final = 60.0
LETTERS: Final = 100
_LOOK_BACK_MS: Final = 7 * 86_400_000
#: 不在的一段：发觉之前、好了之后这么久里死的也算（认领几次才成毒条目）。
_BEFORE_MS: Final = 60_000
_AFTER_MS: Final = 300_000
#: 还没有记下的多于它，丢最早的。
MAX_UNSAVED: Final = 200


class Allowance:
    """同一件事隔多久才再做：头一次立即，此后加倍；一小时至多 ``most`` 次，一小时没做过从头计。"""

    HOUR_S: Final = 3_600.0

    def __init__(
        self, first_s: float = 60.0, most: int = 6, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._first_s = first_s
        self._most = most
        self._monotonic = monotonic
        self._used: dict[str, list[float]] = {}

    def take(self, what: str) -> bool:
        now = self._monotonic()
        recent = {
            key: [at for at in used if now - at < self.HOUR_S] for key, used in self._used.items()
        }
        self._used = {key: used for key, used in recent.items() if used}
        used = self._used.setdefault(what, [])
        if used and (
            len(used) >= self._most or now - used[-1] < self._first_s * 2 ** (len(used) - 1)
        ):
            return False
        used.append(now)
        return True


#: 做一件事，说做了什么；做不成抛 ``MeetingPushError``。
Ability = Callable[[], Awaitable[str]]


class OrderTaker:
    """看见请自己做的就做；``saw`` 由评估的循环每轮叫，``run`` 须由监督者一直运行。"""

    def __init__(
        self,
        node: NodeIdentity,
        errands: Errands,
        abilities: Mapping[str, Ability],
        pause: Callable[[float], None],
        allowance: Allowance | None = None,
    ) -> None:
        """``abilities``：这个角色会做的；``pause``：停收这么多秒，0 是再收。"""
        self._node = node
        self._errands = errands
        self._abilities = abilities
        self._pause = pause
        # 请的人也有节制；这一份给换了人请的、乱写的
        self._allowance = allowance or Allowance(first_s=20.0, most=12)
        self._known: deque[str] = deque(maxlen=1_000)
        self._todo: deque[Order] = deque(maxlen=100)
        self._wake = asyncio.Event()
        self._deferred = RepeatedWarning("alert_order_deferred")

    def saw(self, seen: Seen) -> None:
        orders = [order for report in seen.reports for order in report.orders]
        self._pause(PAUSE_FOR_S if any(order.action == PAUSE for order in orders) else 0.0)
        for order in orders:
            if order.node == self._node.id and order.order_id not in self._known:
                self._known.append(order.order_id)
                self._todo.append(order)
                self._wake.set()

    async def run(self) -> None:
        """监督者运行的循环体；永不返回。"""
        await periodically(self.step, partial(summoned, self._wake), self._deferred)

    async def step(self) -> None:
        while self._todo:
            order = self._todo.popleft()
            done = await self._do(order)
            logger.bind(action=order.action, ok=done.ok, result=done.text).warning("alert_action")
            self._errands.keep(done)

    async def _do(self, order: Order) -> Done:
        ability = self._abilities.get(order.action)
        if ability is None:
            return Done(order.order_id, False, "this process can not do it")
        if not self._allowance.take(order.action):
            return Done(order.order_id, False, "done too often already")
        try:
            async with asyncio.timeout(DO_WITHIN_S):
                return Done(order.order_id, True, await ability())
        except MeetingPushError as error:
            return Done(order.order_id, False, error.message)
        except TimeoutError:
            return Done(order.order_id, False, "not done in time")


#: 请大家停收：一直写着就一直停。
_STOP: Final = Order(PAUSE, PAUSE, "")


class _Asked(NamedTuple):
    alert_id: str
    order: Order
    until: float


#: 把死于这几段里的死信再送，至多几封；返回几封。
Requeue = Callable[[Sequence[tuple[int, int]], int], Awaitable[int]]


class RecoveryActions:
    """定做什么，记下做了什么；只有评估的那个进程做。``run`` 须由监督者一直运行。"""

    def __init__(
        self,
        config: ActionConfig,
        node: NodeIdentity,
        errands: Errands,
        *,
        records: AlertRepository,
        requeue: Requeue,
        pause_above: float,
        clock: Clock = now_ms,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """``pause_above``：规则 ``queue_nearly_full`` 的阈值。"""
        self._config = config
        self._node = node
        self._errands = errands
        self._records = records
        self._requeue = requeue
        self._resume_below = pause_above * RESUME_RATIO
        self._clock = clock
        self._monotonic = monotonic
        self._allowance = Allowance(monotonic=monotonic)
        self._asked: dict[str, _Asked] = {}
        #: 停收着：为哪一条告警；空串是接手来的，那一条已经恢复。
        self._pausing: str | None = None
        self._letters_of: str | None = None
        self._letters_at = float("-inf")
        self._unsaved: deque[EventRow] = deque()
        self._wake = asyncio.Event()
        self._deferred = RepeatedWarning("alert_action_deferred")
        self._counts: Counter[tuple[str, str]] = Counter()
        self._dropped = 0

    # ── 定做什么：同步，评估的循环每轮叫 ────────────────────────────────────────

    def saw(self, seen: Seen) -> None:
        self._letters_of = None
        if seen.firing is None:
            self._asked.clear()
            self._pausing = None
            self._errands.withdraw(_STOP)
            return
        self._hear(seen)
        ours = [one for one in seen.firing if one.labels.get(SOURCE) != ALERTMANAGER]
        for alert in ours:
            self._ask(alert)
            if alert.rule == "dead_letters" and self._config.requeue_dead_letters:
                self._letters_of = alert.alert_id
        if self._config.pause_accepting:
            self._keep_pause(seen, [one for one in ours if one.rule == "queue_nearly_full"])
        if self._letters_of and self._monotonic() - self._letters_at >= _EVERY_S:
            self._wake.set()

    def _ask(self, alert: Alert) -> None:
        action, node = ASKED.get(alert.rule), alert.labels.get(NODE)
        if action is None or node is None or not getattr(self._config, action):
            return
        if any(
            one.order.action == action and one.order.node == node for one in self._asked.values()
        ):
            return
        if not self._allowance.take(f"{action} {node}"):
            return
        order = Order(str(ULID()), action, node)
        self._asked[order.order_id] = _Asked(alert.alert_id, order, self._monotonic() + ERRAND_S)
        self._errands.keep(order)

    def _hear(self, seen: Seen) -> None:
        """谁做过了；没有回答的也算有了结果。"""
        for report in seen.reports:
            for done in report.done:
                if (asked := self._asked.pop(done.order_id, None)) is not None:
                    self._note(
                        asked.alert_id, asked.order.action, done.ok, done.text, report.node_id
                    )
        now = self._monotonic()
        for asked in [one for one in self._asked.values() if one.until <= now]:
            del self._asked[asked.order.order_id]
            self._note(asked.alert_id, asked.order.action, False, "no answer", asked.order.node)

    def _keep_pause(self, seen: Seen, alerts: Sequence[Alert]) -> None:
        """触发了就停，降到 ``_resume_below`` 再收；不知道多满（Redis 不在）就收。"""
        fills = seen.history.latest(gauge("queue_fill_ratio")).values()
        fill = max(fills, default=None)
        full = fill is not None and fill >= self._resume_below
        if self._pausing is None and full:
            self._begin_pause(seen, alerts)
        elif self._pausing is not None and not full:
            known = "not known" if fill is None else f"{fill:.0%}"
            self._note(self._pausing, PAUSE, True, f"accepting again: the queue is {known} full")
            self._pausing = None
            self._errands.withdraw(_STOP)
        if self._pausing is not None:
            self._errands.keep(_STOP, PAUSE_FOR_S)

    def _begin_pause(self, seen: Seen, alerts: Sequence[Alert]) -> None:
        alert_id = alerts[0].alert_id if alerts else ""
        if any(report.gauges.get("accepting_paused", {}).get("") for report in seen.reports):
            self._pausing = alert_id  # 上一个评估的停的，接着停
        elif alert_id and self._allowance.take(PAUSE):
            self._pausing = alert_id
            self._note(alert_id, PAUSE, True, "accepting is paused")

    def _note(self, alert_id: str, action: str, ok: bool, text: str, by: str = "") -> None:
        state = "done" if ok else "failed"
        self._counts[action, state] += 1
        if not alert_id:
            return
        if len(self._unsaved) >= MAX_UNSAVED:
            self._unsaved.popleft()
            self._dropped += 1
        event = EventRow(
            event_id=str(ULID()),
            alert_id=alert_id,
            at=self._clock(),
            kind="action",
            by=by or self._node.id,
            text=f"{action}: {text}"[:1_000],
            state=state,
        )
        self._unsaved.append(event)
        self._wake.set()

    # ── 要等 Redis、SQL 的 ──────────────────────────────────────────────────────

    async def run(self) -> None:
        """监督者运行的循环体；永不返回。"""
        await periodically(self.step, partial(summoned, self._wake, _EVERY_S), self._deferred)

    async def step(self) -> None:
        """记下做过的；轮到了就看一遍死信。

        :raises UnavailableError: 没有记下的留着
        """
        await self._save()
        if self._letters_of and self._monotonic() - self._letters_at >= _EVERY_S:
            self._letters_at = self._monotonic()
            await self._requeue_letters(self._letters_of)
            await self._save()

    async def _save(self) -> None:
        while self._unsaved:
            batch = list(self._unsaved)
            await self._records.add_events(batch)
            for event in batch:
                if self._unsaved and self._unsaved[0] is event:
                    self._unsaved.popleft()

    async def _requeue_letters(self, alert_id: str) -> None:
        now = self._clock()
        periods = await self._records.periods(OUTAGES, now - _LOOK_BACK_MS)
        outages: list[tuple[int, int]] = []
        for since, until in periods:
            if until is None or until > now - WELL_S * 1_000:
                return  # 原因还在，或刚好
            outages.append((since - _BEFORE_MS, until + _AFTER_MS))
        count = await self._requeue(outages, LETTERS)
        if count:
            self._note(alert_id, REQUEUE, True, f"{count} dead letters enqueued again")

    def samples(self) -> Iterator[Sample]:
        text = "automatic actions, by what came of them; by the process that evaluates"
        for action in (RESUBSCRIBE, RESTART, PAUSE, REQUEUE):
            for outcome in ("done", "failed"):
                labels = {"action": action, "outcome": outcome}
                count = self._counts[action, outcome]
                yield Sample("recovery_actions", "counter", text, count, labels)
        text = "actions not written on their alert: the database was away for too long"
        yield Sample("recovery_events_dropped", "counter", text, self._dropped)
