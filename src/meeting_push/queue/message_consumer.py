"""消费者：从队列取，投递进信箱并发布，记录后才了结。

至少一次：了结之前死掉的，由别的消费者认领；投递按消息 id 幂等，所以重做无害。
一项的意外不连累同批的别项；同一项一再意外，就带着回溯进死信。
"""

from __future__ import annotations

import asyncio
import time
import traceback
from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Final

import msgspec

from ..clock import Clock, now_ms
from ..deliver.offline_message_queue import Delivery, OfflineMessageQueue
from ..errors import DatabaseUnavailableError, MeetingPushError
from ..logs import RepeatedWarning, logger
from ..model import MessageKind, QueueEntry
from ..node.flight_recorder import OFF, FlightRecorder
from ..protocol.envelope import peek_type
from ..supervision import Aside, is_temporary
from .message_queue import MessageQueue, Taken
from .queue_reader import QueueReader

#: 暂时性失败（Redis、SQL 断开）之后等这么久再来。
RETRY_AFTER_S: Final = 0.2
#: 慢的那条的两段之间歇上一段的几倍，至多这么久。
BULK_REST: Final = 3
BULK_REST_S: Final = 0.2
#: 慢的那条的一段灌满了谁的信箱，至多等这么久让它先挤好：洪水再大，信箱也只比上限多出几段。
TRIM_WAIT_S: Final = 0.25
#: 还没有挤，又溢出了这么多次（一次至多一段）才等：一条一条地等，挤一次只挤几条。
OVERFLOWS: Final = 10
#: 记录（SQL）不在而少了正文的一项，过这么久再来：不让它占着别的。
DEFER_MS: Final = 500
#: 一项里有的收件人投递不了（他的键坏了）时，他们失败的原因。
MAILBOX_BROKEN: Final = "mailbox_broken"
#: 停下时手里的一批至多再做这么久；做不完的由别人认领。
FINISH_WITHIN_S: Final = 5.0


@dataclass(slots=True)
class ConsumerStatistics:
    """一个消费者做过的；``in_hand`` 是此刻手里的，其余只增。"""

    name: str
    entries: int = 0
    recipients: int = 0
    reached: int = 0
    expired: int = 0
    claimed: int = 0
    failures: int = 0
    poisoned: int = 0
    malformed: int = 0
    in_hand: int = 0
    delivered: Counter[MessageKind] = field(default_factory=Counter)


class MessageConsumer:
    """一个消费者；``run`` 是它的一生，由监督者重启。"""

    def __init__(
        self,
        name: str,
        queue: MessageQueue,
        mailbox: OfflineMessageQueue,
        *,
        batch_entries: int,
        block_ms: int,
        claim_every_ms: int,
        waits: RepeatedWarning,
        aside: Aside,
        bulk_slots: asyncio.Semaphore,
        gone: Set[int] = frozenset(),
        recorder: FlightRecorder = OFF,
        clock: Clock = now_ms,
    ) -> None:
        """:param waits: 等依赖回来时的日志；一个进程里的消费者共用一个
        :param bulk_slots: 同时做慢的那条的至多几个；一个进程里的消费者共用一个
        :param gone: 抹掉了的人：不投递给他，他的键就不会又长出来
        """
        self.name = name
        self._queue = queue
        self._mailbox = mailbox
        self._batch_entries = batch_entries
        self._block_s = block_ms / 1000
        self._claim_every_s = claim_every_ms / 1000
        self._waits = waits
        self._aside = aside
        self._bulk_slots = bulk_slots
        self._gone = gone
        self._may_bulk = False
        self._record = recorder.taken.extend
        self._clock = clock
        self._stopping = False
        self._next_claim = 0.0
        self._done = ConsumerStatistics(name)
        self._alive_at = time.monotonic()

    @property
    def statistics(self) -> ConsumerStatistics:
        return replace(self._done, delivered=self._done.delivered.copy())

    @property
    def silent_for_s(self) -> float:
        """多久没有进展了；空转也算进展，卡住不算。按单调时钟，墙上的钟跳不跳都一样。"""
        return time.monotonic() - self._alive_at

    async def run(self) -> None:
        """取、投递、了结，直到被取消；取消时手里的做完、了结，然后从消费组除名。"""
        self._stopping = False
        self._done.in_hand = 0  # 上一生没有了结的，由别人认领
        self._progress()
        reader = await self._open()
        try:
            await self._until_cancelled(reader)
        finally:
            await reader.close()

    async def _open(self) -> QueueReader:
        """Redis 一时不在不是消费者死了：等它回来。"""
        while True:
            try:
                return await self._queue.open_reader(self.name, max_block_s=self._block_s)
            except MeetingPushError as error:
                await self._wait(error)

    async def _until_cancelled(self, reader: QueueReader) -> None:
        work = asyncio.create_task(self._work(reader), name=f"consume:{self.name}")
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            self._stopping = True
            await self._let_finish(reader, work)
            raise

    async def _let_finish(self, reader: QueueReader, work: asyncio.Task[None]) -> None:
        try:
            async with asyncio.timeout(FINISH_WITHIN_S):
                await reader.wake()
                await work
                await self._queue.streams.retire(self.name)
        except (TimeoutError, MeetingPushError) as error:
            logger.bind(consumer=self.name, error=type(error).__name__).warning("consumer_cut_off")
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def _work(self, reader: QueueReader) -> None:
        try:
            while not self._stopping:
                await self._step(reader)
                self._let_others_bulk(reader)
            while rest := await reader.rest():
                await self._handle(rest)
        finally:
            self._let_others_bulk()

    async def _claim_bulk_slot(self) -> bool:
        """慢的那条不能占住所有人：总有消费者留给此刻的消息。"""
        if not self._may_bulk and not self._bulk_slots.locked():
            await self._bulk_slots.acquire()  # 有空位，不等
            self._may_bulk = True
        return self._may_bulk

    def _let_others_bulk(self, reader: QueueReader | None = None) -> None:
        if self._may_bulk and not (reader is not None and reader.has_bulk):
            self._may_bulk = False
            self._bulk_slots.release()

    async def _step(self, reader: QueueReader) -> None:
        try:
            taken = await self._take(reader)
        except MeetingPushError as error:
            await self._wait(error)
            return
        self._progress()
        if taken:
            self._done.in_hand = len(taken)
            at = self._clock()
            self._record([_sighted(item.entry, at) for item in taken if item.entry.recipient_ids])
            started = time.monotonic()
            await self._handle(taken)
            self._done.in_hand = 0
            await self._let_trim(reader.bulk_among(taken))
            if reader.has_bulk and not reader.calm:
                # 洪水至多用掉四分之一的处理器，此刻的消息每一跳都不必等它
                worked_s = time.monotonic() - started
                await asyncio.sleep(min(worked_s * BULK_REST, BULK_REST_S))

    async def _let_trim(self, bulk: Sequence[Taken]) -> None:
        users = (user_id for item in bulk for user_id in item.entry.recipient_ids)
        await self._mailbox.overflow.wait(users, TRIM_WAIT_S, times=OVERFLOWS)

    def _progress(self) -> None:
        self._alive_at = time.monotonic()

    async def _take(self, reader: QueueReader) -> list[Taken]:
        taken: list[Taken] = []
        bulk = await self._claim_bulk_slot()
        if time.monotonic() >= self._next_claim:
            self._next_claim = time.monotonic() + self._claim_every_s
            taken = await reader.claim(self._batch_entries, bulk=bulk)
            self._done.claimed += len(taken)
        wait_s = 0 if taken else self._block_s
        taken += await reader.take(self._batch_entries, wait_s, bulk=bulk)
        taken += reader.surplus()
        self._done.poisoned, self._done.malformed = reader.poisoned, reader.malformed
        return taken

    async def _wait(self, error: MeetingPushError) -> None:
        if not error.temporary:
            raise error
        self._done.failures += 1
        self._waits.say(consumer=self.name, code=error.code, cause=error.cause)
        await asyncio.sleep(RETRY_AFTER_S)

    async def _handle(self, taken: Sequence[Taken]) -> None:
        """做到成为止：依赖暂时不在就握着重试，不必等别人在 ``claim_idle_ms`` 之后认领。"""
        while not await self._tried(taken):
            await self._hold(taken)

    async def _tried(self, taken: Sequence[Taken]) -> bool:
        """做一遍；False = 依赖暂时不在，要再来。"""
        try:
            await self.process(taken)
        except Exception as error:  # noqa: BLE001 — 不知道是哪一项：逐项再来，只留下坏的
            if isinstance(error, DatabaseUnavailableError):
                return await self._without_record(taken)
            if isinstance(error, MeetingPushError) and error.temporary:
                await self._wait(error)
                return False
            log = logger.bind(consumer=self.name, error=type(error).__name__, entries=len(taken))
            log.error("batch_failed")
            await self._one_by_one(taken)
        return True

    async def _without_record(self, taken: Sequence[Taken]) -> bool:
        """记录不在：只有要问它的（正文丢了的、要进死信的）做不成，推迟它们，别的照做。"""
        for item in taken:
            try:
                await self._process_or_defer(item)
            except Exception as error:  # noqa: BLE001 — 见 _tried
                if is_temporary(error):
                    return False
                await self._set_aside(item, error)
        return True

    async def _process_or_defer(self, item: Taken) -> None:
        try:
            await self.process([item])
        except DatabaseUnavailableError as error:
            self._done.failures += 1
            self._waits.say(consumer=self.name, code=error.code)
            await self._queue.reject(item, "", requeue_after_ms=DEFER_MS)

    async def _hold(self, taken: Sequence[Taken]) -> None:
        try:
            await self._queue.settlement.hold(self.name, taken)
            self._alive_at = time.monotonic()
        except MeetingPushError as error:  # Redis 不在：也没有人能认领
            logger.bind(consumer=self.name, code=error.code, cause=error.cause).debug("hold_failed")

    async def _one_by_one(self, taken: Sequence[Taken]) -> None:
        for item in taken:
            try:
                await self.process([item])
            except Exception as error:  # noqa: BLE001 — 见 _tried
                if not await self._without_spoiled(item):
                    await self._set_aside(item, error)

    async def _without_spoiled(self, item: Taken) -> bool:
        """一项有许多收件人，坏的也许只是其中一个的键：他失败，别人照样收到，一项了结。

        False：一个也没有成，坏的是这一项自己。
        """
        recipients = item.entry.recipient_ids

        async def deliver(some: Sequence[int]) -> None:
            entry = msgspec.structs.replace(item.entry, recipient_ids=tuple(some))
            await self.process([replace(item, entry=entry)], settle=False)

        try:
            spoiled = await self._aside.isolate(recipients, deliver)
            if len(spoiled) == len(recipients):
                return False
            entry = msgspec.structs.replace(item.entry, recipient_ids=tuple(spoiled))
            if spoiled:
                await self._queue.settlement.record_dead(entry, MAILBOX_BROKEN)
            await self._queue.acknowledge([item])
        except MeetingPushError:  # 依赖忽然不在：整项留着，到时再认领
            return False
        return True

    async def _set_aside(self, item: Taken, error: Exception) -> None:
        """不了结：到时被认领再试，次数满了就是毒条目，带着这里记下的回溯进死信。"""
        self._done.failures += 1
        message_id = item.entry.message_id
        logger.bind(consumer=self.name, message_id=message_id).opt(exception=error).error(
            "entry_failed"
        )
        trace = "".join(traceback.format_exception(error))
        try:
            await self._queue.settlement.note_error(item, trace)
        except MeetingPushError as lost:
            logger.bind(message_id=message_id, code=lost.code).warning("entry_error_not_noted")

    # ── 投递 ────────────────────────────────────────────────────────────────

    async def process(self, taken: Sequence[Taken], *, settle: bool = True) -> None:
        """投递一批并了结（``settle``）。过期的、已撤回的不投递，也了结。"""
        live = await self._wanted(taken)
        tails = await self._mailbox.tails([item.entry.message_id for item in live])
        deliverable = [item for item in live if item.entry.message_id in tails]
        for item in live:
            if item.entry.message_id not in tails:
                await self._queue.reject(item, "body_gone")
        delivered = await self._mailbox.deliver(
            [_delivery(item, tails, self._gone) for item in deliverable]
        )
        self._done.entries += len(taken)
        self._done.recipients += sum(map(len, delivered))
        self._done.reached += sum(1 for row in delivered for one in row if one.receivers)
        for item, row in zip(deliverable, delivered, strict=True):
            if not item.entry.attempt:
                kind = MessageKind(peek_type(tails[item.entry.message_id]), item.entry.priority)
                self._done.delivered[kind] += len(row)
        if settle:
            await self._queue.acknowledge(taken)  # 已进死信的不受影响

    async def _wanted(self, taken: Sequence[Taken]) -> list[Taken]:
        now = self._clock()
        live = [item for item in taken if item.entry.expires_at > now]
        self._done.expired += len(taken) - len(live)
        scheduled = [item.entry.message_id for item in live if item.scheduled]
        if not scheduled:
            return live
        cancelled = await self._queue.streams.cancelled(scheduled)
        return [i for i in live if not (i.scheduled and i.entry.message_id in cancelled)]


def _sighted(entry: QueueEntry, at: int) -> tuple[int, str, int, int, int]:
    recipients = entry.recipient_ids
    return at, entry.message_id, recipients[0], recipients[-1], entry.attempt


def _delivery(item: Taken, tails: dict[str, bytes], gone: Set[int]) -> Delivery:
    entry, to = item.entry, item.entry.recipient_ids
    if gone and not gone.isdisjoint(to):
        to = tuple(user_id for user_id in to if user_id not in gone)
    return Delivery(
        message_id=entry.message_id,
        tail=tails[entry.message_id],
        recipient_ids=to,
        priority=entry.priority,
        expires_at=entry.expires_at,
        attempt=entry.attempt,
    )
