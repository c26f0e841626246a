"""一个接收者的队列由谁送、怎样送：至少一次，同一条消息的照次序，一个接收者的毛病与别的无关。

租约在谁手里谁送（``storage/event_queue.py``）。取一页，各条消息排各自的队（``lanes``），轮到的同时
送几份；送成的从记录里删掉，没有送成的过一会儿再来，一次比一次久：

- 一份连着 ``ASIDE_AFTER_MS`` 没有送成，而别的送得成：它让到一边，同一条消息的后面几份先走。
  里面有几个事件的，此后各送各的：坏的那一个不连累别的。
- 连着几份都没有送成：是接收者不行，歇着，隔一会儿试一份；好了，都马上再来。
- 等了 ``GIVE_UP_MS``：死信。它说自己没有了（410）：停下，等的照样到时成为死信，人来说再送。
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from ..clock import Clock, now_ms
from ..errors import MeetingPushError
from ..logs import RepeatedWarning, logger
from ..node_identity import NodeIdentity
from ..storage.event_queue import EventQueueRepository, EventRow, FailedRow
from ..supervision import Tasks, periodically, summoned
from .delivery import CONNECTIONS, Answer, Delivery, Verdict
from .receiver import TALLY_S, QueueKeeper, Rest, SenderFigures, jitter
from .units import Lanes, Unit

LEASE_MS: Final = 40_000
#: 这么久续一次；续不上，过了 ``_SURE_S`` 就不再开始送（在送的一次至多 15 秒，租约还没到期）。
RENEW_S: Final = 5.0
_SURE_S: Final = 15.0
#: 没有人叫醒：隔多久看一眼（别的进程写下的）。
POLL_S: Final = 0.5
#: 不轮到：隔多久问一次。
ASK_S: Final = 5.0
#: 手里至多这么多份。
MOST_HELD: Final = 500
_PAGE: Final = 200
GIVE_UP_MS: Final = 24 * 3_600_000
ASIDE_AFTER_MS: Final = 5 * 60_000
#: 一份：第一次重来之前歇多久（毫秒），每次三倍，至多多久。
FIRST_RETRY_MS: Final = 1_000
MOST_RETRY_MS: Final = 3_600_000


@dataclass(slots=True)
class _Finished:
    done: list[int] = field(default_factory=list)
    failed: list[FailedRow] = field(default_factory=list)
    split: list[tuple[Unit, FailedRow]] = field(default_factory=list)
    dead: list[tuple[int, str]] = field(default_factory=list)


class EventSender:
    """``run`` 须由监督者一直运行，停下之后叫 ``stop``。``most_waiting``：至多等着这么多事件。"""

    def __init__(
        self,
        receiver: str,
        name: str,
        delivery: Delivery,
        *,
        queue: EventQueueRepository,
        node: NodeIdentity,
        most_waiting: int,
        clock: Clock = now_ms,
        monotonic: Callable[[], float] = time.monotonic,
        give_up_ms: int = GIVE_UP_MS,
        aside_after_ms: int = ASIDE_AFTER_MS,
        first_retry_ms: int = FIRST_RETRY_MS,
    ) -> None:
        self.receiver, self.name = receiver, name
        self.figures = SenderFigures()
        self._delivery = delivery
        self._queue = queue
        self._node = node
        self._clock, self._monotonic = clock, monotonic
        self._give_up_ms, self._aside_after_ms = give_up_ms, aside_after_ms
        self._first_retry_ms = first_retry_ms
        self._lanes = Lanes()
        self._rest = Rest()
        self._tasks = Tasks()
        self._finished = _Finished()
        self._wake = asyncio.Event()
        #: 有新写下的，该去看看。
        self._fresh = True
        #: 接手之后，送过而没有送成的取来了没有。
        self._knows_failing = False
        self._looked_at = float("-inf")
        self._renewed_at = float("-inf")
        self._tallied_at = float("-inf")
        self._keeper = QueueKeeper(
            receiver, name, queue, self.figures, most_waiting=most_waiting, give_up_ms=give_up_ms
        )
        self._deferred = RepeatedWarning("event_sender_deferred")
        self._said = RepeatedWarning("event_not_sent")

    # ── 生命周期 ─────────────────────────────────────────────────────────────

    def wake(self) -> None:
        """有新的。"""
        self._fresh = True
        self._wake.set()

    async def run(self) -> None:
        """监督者运行的循环体；永不返回。"""
        await periodically(self.step, self._pause, self._deferred)

    async def stop(self) -> None:
        """放下手里的，让位；没有了结的由接手的再送一遍。"""
        await self._tasks.close()
        await self._delivery.close()
        try:
            await self._settle()
            if self.figures.leads:
                await self._queue.release(self.receiver, self._node.id, self._clock())
        except MeetingPushError as error:
            logger.bind(code=error.code).warning("event_sender_left_to_lease")

    async def _pause(self) -> None:
        await summoned(self._wake, self._wait_s())

    def _wait_s(self) -> float:
        if not self.figures.leads:
            return ASK_S
        if len(self._tasks) >= CONNECTIONS:
            return RENEW_S
        return POLL_S

    # ── 一步 ────────────────────────────────────────────────────────────────

    async def step(self) -> None:
        """续租，了结送完的，取新的，送轮到的；不等谁送完。"""
        await self._settle()
        if not await self._lead():
            return
        if self._monotonic() - self._tallied_at >= TALLY_S:
            for unit_id in await self._keeper.tally(self._clock()):
                self._lanes.done(unit_id)
            self._tallied_at = self._monotonic()
        if self.figures.parked:
            return
        await self._fill()
        self._send()

    async def _lead(self) -> bool:
        figures, now = self.figures, self._monotonic()
        if figures.leads and now - self._renewed_at < RENEW_S:
            return True
        lease = await self._queue.lease(self.receiver, self._node.id, self._clock(), LEASE_MS)
        if lease is None:
            if figures.leads:
                self._lost()
            return False
        self._renewed_at = now
        self._note_parked(lease.parked_at is not None)
        if not figures.leads:
            figures.leads = True
            logger.bind(receiver=self.name).info("event_sender_leads")
        return True

    def _lost(self) -> None:
        self._lanes.clear()
        self._knows_failing = False
        self.figures.leads = False
        self.figures.waiting, self.figures.oldest_age_s, self.figures.dead_waiting = 0, 0, 0

    def _note_parked(self, parked: bool) -> None:
        if self.figures.parked and not parked:
            self._rest, self._knows_failing = Rest(), False
        self.figures.parked = parked

    async def _settle(self) -> None:
        """送完的记下；记不成的留着，下一步再来。"""
        finished = self._finished
        if not (finished.done or finished.failed or finished.split or finished.dead):
            return
        self._finished = _Finished()
        try:
            await self._record(finished)
        except BaseException:
            self._finished.done += finished.done
            self._finished.failed += finished.failed
            self._finished.split += finished.split
            self._finished.dead += finished.dead
            raise

    async def _record(self, finished: _Finished) -> None:
        if finished.done or finished.failed:
            await self._queue.settle(finished.done, finished.failed)
            finished.done, finished.failed = [], []
        while finished.split:
            unit, failed = finished.split[-1]
            await self._queue.split(unit.row, failed)
            finished.split.pop()
        while finished.dead:
            unit_id, why = finished.dead[-1]
            await self._queue.bury([unit_id], why, self._clock())
            finished.dead.pop()

    async def _fill(self) -> None:
        if not self._knows_failing:
            self._add(await self._queue.failing(self.receiver, MOST_HELD))
            self._knows_failing = True
        now = self._monotonic()
        room = MOST_HELD - len(self._lanes)
        is_low = self._fresh or len(self._lanes) < _PAGE or now - self._looked_at >= POLL_S
        if room <= 0 or not is_low:
            return
        self._fresh, self._looked_at = False, now
        due = await self._queue.due(self.receiver, self._clock(), MOST_HELD + _PAGE)
        fresh = [unit_id for unit_id in due if unit_id not in self._lanes and self._is_new(unit_id)]
        self._add(await self._queue.load(fresh[: min(room, _PAGE)]))

    def _add(self, rows: Sequence[EventRow]) -> None:
        for row in rows:
            try:
                self._lanes.add(Unit.of(row))
            except (msgspec.DecodeError, msgspec.ValidationError, IndexError):
                self._finished.dead.append((row.id, "unreadable"))

    def _is_new(self, unit_id: int) -> bool:
        """不是送完了还没有记下的。"""
        finished = self._finished
        return not (
            unit_id in finished.done
            or any(one.id == unit_id for one in finished.failed)
            or any(one[0].id == unit_id for one in finished.split)
            or any(one[0] == unit_id for one in finished.dead)
        )

    # ── 送 ──────────────────────────────────────────────────────────────────

    def _send(self) -> None:
        now = self._monotonic()
        while self._may_send(now):
            unit = self._lanes.take(self._clock())
            if unit is None:
                return
            self._tasks.spawn(self._deliver(unit), "event-post")

    def _may_send(self, now: float) -> bool:
        if now - self._renewed_at > _SURE_S or now < self._rest.until:
            return False
        most = 1 if self._rest.broken else CONNECTIONS
        return len(self._tasks) < most

    async def _deliver(self, unit: Unit) -> None:
        try:
            answer = await self._delivery.deliver(unit)
        except Exception as error:  # noqa: BLE001 — 没有送成，照样再来
            answer = Answer(Verdict.AGAIN, type(error).__name__)
        if answer.verdict is Verdict.DONE:
            self._succeeded(unit)
        else:
            self._failed(unit, answer)
        self._wake.set()

    def _succeeded(self, unit: Unit) -> None:
        self.figures.sent += len(unit.items)
        self._finished.done.append(unit.id)
        self._lanes.done(unit.id)
        if self._rest.succeeded():
            logger.bind(receiver=self.name).info("event_receiver_recovered")
            self._lanes.hurry()
        self.figures.broken = False

    def _failed(self, unit: Unit, answer: Answer) -> None:
        now = self._clock()
        self.figures.failed += len(unit.items)
        self._said.say(receiver=self.name, kind=unit.row.kind, reason=answer.why)
        self._rest.failed(self._monotonic(), answer.pause_s)
        self.figures.broken = self._rest.broken
        if answer.verdict is Verdict.GONE and not self.figures.parked:
            self.figures.parked = True
            self._tasks.spawn(self._park(), "event-park")
        if unit.id not in self._lanes:
            return  # 不再轮到我们
        unit.attempts += 1
        unit.failing_since = unit.failing_since or now
        if now - unit.row.since >= self._give_up_ms:
            self._bury(unit, answer.why)
            return
        again = FailedRow(
            unit.id,
            unit.attempts,
            now + int(self._retry_ms(unit.attempts)),
            unit.failing_since,
            self._is_aside(unit, now, refused=answer.verdict is Verdict.REFUSED),
            answer.why[:200],
        )
        if again.aside and len(unit.items) > 1:
            self._finished.split.append((unit, again))
            self._lanes.done(unit.id)
            return
        self._finished.failed.append(again)
        if again.aside:
            self._lanes.done(unit.id)  # 到时由记录里再取来
        else:
            self._lanes.failed(unit.id, again.next_at)

    def _retry_ms(self, attempts: int) -> float:
        pause = self._first_retry_ms * 3.0 ** min(attempts - 1, 12)
        return min(pause, MOST_RETRY_MS) * jitter()

    def _is_aside(self, unit: Unit, now: int, *, refused: bool) -> bool:
        """接收者不行时谁也不让：让了也走不了，只乱了次序。``refused``：是它不要这一份。"""
        if unit.aside:
            return True
        assert unit.failing_since is not None, "it failed"
        return now - unit.failing_since >= self._aside_after_ms and (
            refused or not self._rest.broken
        )

    def _bury(self, unit: Unit, why: str) -> None:
        self._finished.dead.append((unit.id, why[:200]))
        self._lanes.done(unit.id)
        self.figures.dead += len(unit.items)
        logger.bind(receiver=self.name, kind=unit.row.kind, reason=why).error("event_given_up")

    async def _park(self) -> None:
        try:
            await self._queue.park(self.receiver, self._clock())
        except MeetingPushError:
            self.figures.parked = False  # 没有记下：它下一次还会这样说
            return
        self._lanes.clear()
        logger.bind(receiver=self.name).error("event_receiver_gone")
