"""通知：收下触发与恢复，按渠道说出去。

评估的那一边把刚触发、刚恢复的交给 ``told``；``firing`` 让我们自己去看此刻在触发的，没有说过的
补说，该升级的升级：换了进程来评估，接手的这一个不必有人告诉它从前的事。``loops()`` 里的循环由
监督者起来，每个渠道一个：一个渠道挂住，别的照样说。

至少一次：发出去了而回答没有来的、换进程的那一刻，可能再说一遍。SQL 与 Redis 不在照样说，
记录随后补。
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Final

from ...clock import Clock, now_ms
from ...errors import ChannelFailedError, NotFoundError
from ...storage.alerts import AlertRow, ToldRow
from ...supervision import periodically, woken
from ..alerts.model import Alert, AlertState, Severity, Text, alert_from
from .channel import Channel, NoticeConfig, Sender
from .courier import WATCHDOG, Courier, NoticeStatistics, Timings, Watchdog, sender_of
from .ledger import Ledger, NoticeRecords, Outcome
from .schedule import LOOK_AGAIN_S, Escalations, Lane, Waiting
from .text import NoticeWriter

Loop = Callable[[], Awaitable[None]]
MakeSender = Callable[[Channel, NoticeWriter], Sender]
#: 此刻在触发的；None：不由这个进程评估。
Firing = Callable[[], Iterable[Alert] | None]

_IDLE_S: Final = 3_600.0
_TEST: Final = Text("这是一份测试通知，什么也没有发生", "this is a test notice, nothing happened")


class Notifier:
    """:raises ConfigurationError: 一个渠道的地址不能用"""

    def __init__(
        self,
        config: NoticeConfig,
        writer: NoticeWriter,
        records: NoticeRecords | None = None,
        *,
        firing: Firing = lambda: None,
        timings: Timings | None = None,
        make_sender: MakeSender = sender_of,
        clock: Clock = now_ms,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._timings = timings or Timings()
        self._firing = firing
        self._leads = False
        self._wake_escalation = asyncio.Event()
        self._clock = clock
        self._monotonic = monotonic
        self._statistics = NoticeStatistics(frozenset(one.kind for one in config.channels))
        quiet = config.quiet_hours
        self._couriers = {
            channel.name: Courier(
                # 日志不吵人，夜里照记
                Lane(channel, None if channel.kind == "log" else quiet),
                make_sender(channel, writer),
                self._statistics,
                self._timings,
                monotonic,
            )
            for channel in config.channels
        }
        self._watchdog = Watchdog(
            [one for one in self._couriers.values() if one.lane.channel.watchdog],
            self._timings,
            monotonic,
        )
        self._escalations = Escalations(config.escalate)
        self._escalated: dict[str, set[str]] = {}
        self._first_told: dict[str, int] = {}
        self._ledger = Ledger(records, clock, monotonic, self._recall, self._timings.ask_s)

    # ── 评估的一边 ───────────────────────────────────────────────────────────

    async def told(self, alerts: Iterable[Alert]) -> None:
        """刚触发的、刚恢复的。同一条同一个状态说几遍都行，每个渠道只听到一次；不等渠道，不抛出。

        第一次先读从前说过什么；SQL 不在就不等，宁可多说一遍。规则 ``watchdog`` 只给看门狗的渠道。
        """
        await self._ledger.load_once()
        for alert in alerts:
            self._hear(alert)

    def _hear(self, alert: Alert) -> None:
        if alert.rule == WATCHDOG:
            self._watchdog.hear(alert)
            return
        self._follow(alert)
        now = self._monotonic()
        for courier in self._told_about():
            courier.lane.offer(alert, now, remembers=self._ledger.is_loaded)
            courier.wake.set()

    async def test(self, name: str) -> None:
        """往一个渠道发一份标明是测试的，当场发，不等不攒。

        :raises NotFoundError: 没有这个渠道
        :raises ChannelFailedError: 没有发成，为什么
        """
        courier = self._couriers.get(name)
        if courier is None:
            raise NotFoundError(f"there is no channel {name!r}")
        await courier.deliver([_test_alert(self._clock())], is_test=True)

    # ── 循环与观察 ───────────────────────────────────────────────────────────

    def loops(self) -> Iterator[tuple[str, Loop]]:
        """（名字，循环体），各交给监督者。"""
        for courier in self._told_about():
            yield f"notices:{courier.name}", partial(self._serve, courier)
        yield "notices_watch", self._watch
        yield "notices_watchdog", self._watchdog.beat
        yield "notices_ledger", self._ledger.keep

    @property
    def channels(self) -> list[str]:
        return list(self._couriers)

    def statistics(self) -> NoticeStatistics:
        lanes = [courier.lane for courier in self._couriers.values()]
        self._statistics.dropped = sum(lane.dropped for lane in lanes)
        self._statistics.waiting = sum(len(lane) for lane in lanes)
        return self._statistics

    def _told_about(self) -> list[Courier]:
        """收告警的渠道；看门狗的那些不收。"""
        return [one for one in self._couriers.values() if not one.lane.channel.watchdog]

    # ── 一个渠道 ─────────────────────────────────────────────────────────────

    async def _serve(self, courier: Courier) -> None:
        await periodically(partial(self._step, courier), partial(self._pause, courier))

    async def _pause(self, courier: Courier) -> None:
        due_s = courier.lane.due_in(self._monotonic(), self._clock())
        await woken(courier.wake, _IDLE_S if due_s is None else min(due_s, _IDLE_S))

    async def _step(self, courier: Courier) -> None:
        courier.wake.clear()
        now = self._monotonic()
        if courier.lane.due_in(now, self._clock()) != 0:
            return
        batch = courier.lane.take(now, self._clock())
        wanted = await self._wanted(courier.lane, batch)
        if wanted:
            await self._say(courier, wanted)

    async def _wanted(self, lane: Lane, batch: Sequence[Waiting]) -> list[Waiting]:
        """静了音的不说，升级途中认领了的不再升级。"""
        standings = await self._ledger.standings([one.alert.alert_id for one in batch])
        wanted: list[Waiting] = []
        silenced: list[Waiting] = []
        done: list[Waiting] = []
        for one in batch:
            standing = standings.get(one.alert.alert_id)
            if standing is not None and (standing.silenced_until or 0) > self._clock():
                firing = one.alert.state is AlertState.FIRING
                (silenced if firing else done).append(one)
            elif one.is_escalation and standing is not None and standing.acknowledged_at:
                done.append(one)
            else:
                wanted.append(one)
        lane.told(done)
        lane.put_off(silenced, self._monotonic() + LOOK_AGAIN_S)
        return wanted

    async def _say(self, courier: Courier, batch: Sequence[Waiting]) -> None:
        alerts = [one.alert for one in batch]
        escalation = any(one.is_escalation for one in batch)
        try:
            refused = await courier.deliver(alerts, is_escalation=escalation)
        except ChannelFailedError as error:
            self._failed(courier, batch, error)
            return
        courier.lane.told(batch)
        reason = f"refused: {', '.join(refused)}" if refused else ""
        self._ledger.note(batch, Outcome(courier.name, told=True, reason=reason))

    def _failed(
        self, courier: Courier, batch: Sequence[Waiting], error: ChannelFailedError
    ) -> None:
        lane, now = courier.lane, self._monotonic()
        if error.slow_down_s:
            lane.put_back(batch, now, error.slow_down_s)
            return
        self._ledger.note(batch, Outcome(courier.name, told=False, reason=error.message))
        if lane.channel.fallback is None:
            lane.put_back(batch, now, self._timings.rest_s)
            return
        other = self._couriers[lane.channel.fallback]
        for one in lane.hand_over(batch):
            other.lane.press(one.alert, now, is_escalation=one.is_escalation)
        other.wake.set()

    # ── 升级 ────────────────────────────────────────────────────────────────

    def _follow(self, alert: Alert) -> None:
        if alert.state is AlertState.RESOLVED:
            self._escalations.close(alert.alert_id)
            return
        told_at = self._first_told.get(alert.alert_id)
        age_s = 0.0 if told_at is None else max(0, self._clock() - told_at) / 1000
        done = self._escalated.get(alert.alert_id, ())
        if self._escalations.open(alert, self._monotonic() - age_s, done):
            self._wake_escalation.set()

    async def _watch(self) -> None:
        await periodically(self._watch_step, self._watch_pause)

    async def _watch_step(self) -> None:
        self._wake_escalation.clear()
        firing = self._firing()
        if firing is not None:
            self._leads = True
            await self._look(list(firing))
        elif self._leads:
            self._stand_down()
        await self._escalate()

    async def _look(self, firing: Sequence[Alert]) -> None:
        await self.told(firing)
        ids = {alert.alert_id for alert in firing}
        self._escalations.keep(ids)
        for courier in self._told_about():
            courier.lane.forget_over(ids)

    async def _watch_pause(self) -> None:
        due_s = self._escalations.due_in(self._monotonic())
        within_s = self._timings.watch_s
        await woken(self._wake_escalation, within_s if due_s is None else min(due_s, within_s))

    def _stand_down(self) -> None:
        """轮到别的进程评估了：升级与心跳归它；已经收下的照样说完。"""
        self._leads = False
        self._ledger.unload()
        self._watchdog.stop()
        self._escalations.clear()
        self._escalated.clear()
        self._first_told.clear()

    async def _escalate(self) -> None:
        ids = self._escalations.due(self._monotonic())
        if not ids:
            return
        standings = await self._ledger.standings(ids)
        now = self._monotonic()
        for due in self._escalations.settle(ids, standings, now, self._clock()):
            for name in due.to:
                self._press(self._couriers[name], due.alert, now)

    def _press(self, courier: Courier, alert: Alert, now: float) -> None:
        if alert.severity.rank >= courier.lane.channel.min_severity.rank:
            courier.lane.press(alert, now, is_escalation=True)
            courier.wake.set()

    # ── 从前 ────────────────────────────────────────────────────────────────

    def _recall(self, told: Sequence[ToldRow], unsaid: Sequence[AlertRow]) -> None:
        for row in told:
            if row.channel in self._couriers:
                self._couriers[row.channel].lane.remember(row.alert_id, AlertState(row.state))
            if row.is_escalation:
                self._escalated.setdefault(row.alert_id, set()).add(row.channel)
            elif row.state == AlertState.FIRING:
                at = self._first_told.get(row.alert_id, row.at)
                self._first_told[row.alert_id] = min(at, row.at)
        for alert in map(alert_from, unsaid):
            self._hear(alert)


def _test_alert(at: int) -> Alert:
    return Alert(
        alert_id="test",
        rule="test",
        severity=Severity.INFO,
        state=AlertState.FIRING,
        summary=_TEST,
        labels={},
        value=1,
        threshold=0,
        started_at=at,
        runbook="alerting.md",
    )
