"""隔几秒看一遍规则：各进程都看着，轮到的那一个评估、记下、告诉。"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple, Protocol

from ...clock import Clock, now_ms
from ...errors import MeetingPushError
from ...logs import RepeatedWarning
from ...node_identity import NodeIdentity
from ...storage.alerts import AlertStateRepository
from ...supervision import periodically
from ..figures import Seen
from ..metrics import Sample
from ..report import NodeReport
from .book import AlertBook
from .evaluation import History, Reading, step
from .model import Alert, AlertSink, Severity
from .rule import Rule, Selector, selectors

#: 大家的报告这么久读不到，就只看自己的。
READ_S: Final = 2.0
#: 一处不回答，等这么久就当它不在。
ANSWER_S: Final = 2.0
#: 一轮至多：看、问两处、等 SQL。
ROUND_S: Final = 8.0


def lease_s(interval_s: float) -> float:
    """隔 ``interval_s`` 来续一次的租期；契约是别人 30 秒之内接手。"""
    return interval_s + ROUND_S


class TurnHolder(Protocol):
    """见 ``redis/claims.py`` 的 ``Turn``。"""

    async def take(self) -> bool: ...

    async def keep(self) -> None: ...

    async def give_back(self) -> None: ...


class Election:
    """集群里哪一个进程评估：够得到的几处都说轮到它，才是它；它死了，租期一过就轮到别人。

    先问 Redis，再问 SQL：Redis 不在时 SQL 说了算，SQL 不在时 Redis 说了算，谁都不在，上一次的
    接着做：依赖全不在时更要有人告警。``turn`` 的租期也是 ``lease_s``。
    """

    def __init__(
        self,
        turn: TurnHolder,
        state: AlertStateRepository,
        node: NodeIdentity,
        lease_s: float,
        clock: Clock = now_ms,
    ) -> None:
        self._turn = turn
        self._state = state
        self._node = node
        self._lease_ms = int(lease_s * 1_000)
        self._clock = clock
        #: 上一次问的结果。
        self.leads = False

    async def ask(self) -> bool:
        """轮到我，或仍是我。不抛出依赖不在的错。"""
        by_redis = await _answer(self._ask_redis)
        by_sql = None if by_redis is False else await _answer(self._ask_sql)
        if by_redis is not None or by_sql is not None:
            self.leads = by_redis is not False and by_sql is not False
        return self.leads

    async def resign(self) -> None:
        """从容离开：不等租期过去。"""
        if self.leads:
            self.leads = False
            await _answer(self._give_back)

    async def _ask_redis(self) -> bool:
        mine = await self._turn.take()
        if mine:
            await self._turn.keep()
        return mine

    async def _ask_sql(self) -> bool:
        return await self._state.lease(self._node.id, self._clock(), self._lease_ms)

    async def _give_back(self) -> bool:
        await self._state.release(self._node.id)
        await self._turn.give_back()
        return True


async def _answer(ask: Callable[[], Awaitable[bool]]) -> bool | None:
    """None：它不在，没有回答。"""
    try:
        async with asyncio.timeout(ANSWER_S):
            return await ask()
    except (MeetingPushError, TimeoutError):
        return None


class Sight(NamedTuple):
    """``everybody``：各进程的报告（经 Redis）；``own``：只有自己的，谁都不在也有。"""

    everybody: Callable[[], Awaitable[Iterable[NodeReport]]]
    own: Callable[[], NodeReport]


#: 每一轮看见了什么，也告诉它；同步，不得抛出。
Observer = Callable[[Seen], None]


class AlertEvaluator:
    """``run`` 须由监督者一直运行。不轮到时也看着：接手的一刻就有历史。"""

    def __init__(
        self,
        rules: Mapping[str, Rule],
        sight: Sight,
        *,
        election: Election,
        book: AlertBook,
        sink: AlertSink,
        interval_s: float,
        clock: Clock = now_ms,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rules = rules
        self.sink = sink
        self._sight = sight
        self._election = election
        self._book = book
        self._interval_s = interval_s
        self._clock = clock
        self._monotonic = monotonic
        self._history = History(
            one for rule in rules.values() for one in selectors(rule.expression)
        )
        self._deferred = RepeatedWarning("alert_round_deferred")
        self._led = False
        #: 最近一次轮到我（单调的秒）：一轮挂住了，过了租期就不再算我的。
        self._led_at = 0.0
        self._observers: list[Observer] = []

    def listen(self, observer: Observer, watched: Iterable[Selector] = ()) -> None:
        """``watched``：它还要看的指标；在 ``run`` 之前。"""
        self._history.watch(watched)
        self._observers.append(observer)

    async def run(self) -> None:
        """监督者运行的循环体；永不返回。"""
        await periodically(self.round, partial(asyncio.sleep, self._interval_s), self._deferred)

    async def round(self) -> None:
        """看一遍；轮到我就评估。"""
        reports, partial_sight = await self._look()
        if not await self._election.ask():
            if self._led:
                self._book.forget()
            self._led = False
            self._show(reports, partial_sight)
            return
        self._led, self._led_at = True, self._monotonic()
        await self._book.refresh()
        now = self._clock()
        outcome = step(self.rules, self._history, self._book.before(), now, partial=partial_sight)
        self._book.apply(self.rules, outcome, now)
        self._show(reports, partial_sight)
        await self._book.settle(self.sink, now)

    def firing(self) -> list[Alert] | None:
        """此刻在触发的；None：不由这个进程评估，或它的一轮挂住了，早已不在评估。"""
        return self._book.firing if self._leads else None

    @property
    def _leads(self) -> bool:
        return self._led and self._monotonic() - self._led_at <= lease_s(self._interval_s)

    def _show(self, reports: Sequence[NodeReport], alone: bool) -> None:
        seen = Seen(reports, self._history, self._monotonic(), not alone, self.firing())
        for observer in self._observers:
            observer(seen)

    async def _look(self) -> tuple[list[NodeReport], bool]:
        """记一次大家的数；True：只看得见自己的。"""
        try:
            async with asyncio.timeout(READ_S):
                reports, alone = list(await self._sight.everybody()), False
        except (MeetingPushError, TimeoutError):
            reports, alone = [self._sight.own()], True
        readings = {one.node_id: Reading(one.gauges, one.totals) for one in reports}
        self._history.take(self._monotonic(), readings, partial=alone)
        return reports, alone

    async def stop(self) -> None:
        """从容离开：别人马上接手。"""
        await self._election.resign()

    def samples(self) -> Iterator[Sample]:
        """在触发的；只有评估的那个进程报。"""
        counts = Counter(alert.severity for alert in self.firing() or ())
        for severity in Severity:
            labels = {"severity": severity.value}
            yield Sample("alerts_firing", "gauge", "alerts firing", counts[severity], labels)
        leads = int(self._leads)
        yield Sample("alert_evaluator", "gauge", "1 = this process evaluates the rules", leads)
