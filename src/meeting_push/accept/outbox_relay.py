"""发件箱中继：把已提交的消息送进信箱，或送进队列。

SQL 提交是持久点；``enqueued_at IS NULL`` 的行就是发件箱。刚提交的消息直接交来
（``submit``，快路）：小的当场投递（``DirectDelivery``），别的入队；进程死掉、Redis 不在时留下的由
定时扫描入队（慢路）。两路都只经过这里，所以“接受”从不等待 Redis。做两遍无害：投递按消息 id 幂等。
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from functools import partial
from typing import Final

from ..clock import Clock, now_ms
from ..deliver.offline_message_queue import OfflineMessageQueue
from ..errors import MeetingPushError, QueueFullError
from ..limits.send_limits import FairLine, FairShares
from ..logs import RepeatedWarning, logger
from ..model import URGENT_PRIORITY, Draft, Message, Outgoing, QueueEntry
from ..node.control_channel import ControlCommand
from ..node.flight_recorder import OFF, FlightRecorder
from ..protocol import envelope
from ..queue.message_queue import MessageQueue
from ..redis.bodies import Body
from ..redis.claims import Turn
from ..storage.messages import UNREADABLE, MessageRepository
from ..supervision import LOGGED_ITEMS, Aside, periodically, summoned, woken
from .direct_delivery import SLOW_S, DirectDelivery

#: 别的进程正扫着发件箱：过这么久再看还有没有自己的。
TURN_AGAIN_S: Final = 0.25
#: 扫着的进程死了，这么久之后轮到别人。
TURN_MS: Final = 5_000

#: 一次入队至多这么多条消息、大约这么多份（见 ``FairLine.take``）：一条 Lua 不应占住 Redis、
#: 编码不应占住事件循环超过几毫秒。
BATCH_MESSAGES: Final = 100
#: 快路的一批：多半直接投递。一个来回越多条，越不会落后到要走队列；一个请求一百条时，每秒多送一半。
FAST_MESSAGES: Final = 400
BATCH_UNITS: Final = 5_000
#: 记下 ``enqueued_at``（送走了）可以晚一点：没记上的只会被扫描再入队一次，无害。攒着写，省下每条
#: 消息一个 SQL 事务。必须远小于扫描的宽限期。
MARK_EVERY_S: Final = 0.25
#: 慢的那条满过，这么久之内还当它满着。
BULK_FULL_MS: Final = 1_000
#: 一个发送者不急的等着多于这么多条（一批多一点），他的下一份请求就等一等，至多 ``CATCH_UP_S``：
#: 收得比投得快，多的只会落进更费的队列，越走越慢。
AHEAD_MESSAGES: Final = 500
CATCH_UP_S: Final = 0.1

#: 等的那一段怎样等：让出占着的。
Pause = Callable[[], AbstractAsyncContextManager[None]]


class Hurry(ControlCommand, frozen=True, kw_only=True, tag="outbox"):
    """别的进程往发件箱里写了（同步的发布者）：各节点立即扫一遍。"""


class OutboxRelay:
    """送走一条消息 = 写正文、开状态、投递或写队列条目，最后在 SQL 里记下 ``enqueued_at``。

    ``direct``：没有给就都入队。
    """

    def __init__(
        self,
        *,
        messages: MessageRepository,
        queue: MessageQueue,
        mailbox: OfflineMessageQueue,
        chunk_recipients: int,
        shares: FairShares,
        interval_s: float,
        grace_s: float,
        aside: Aside,
        turn: Turn,
        direct: DirectDelivery | None = None,
        recorder: FlightRecorder = OFF,
        clock: Clock = now_ms,
    ) -> None:
        self._messages = messages
        self._queue = queue
        self._mailbox = mailbox
        self._chunk = chunk_recipients
        self._shares = shares
        #: 慢的那条最近一次满是何时。
        self._bulk_full_at = -BULK_FULL_MS
        self._interval_s = interval_s
        self._grace_ms = int(grace_s * 1000)
        self._aside = aside
        self._turn = turn
        self._record = recorder.enqueued.extend
        self._clock = clock
        self.direct = direct
        #: 等着的：急的，其余的。
        self._urgent, self._pending = FairLine(), FairLine()
        self._wake = asyncio.Event()
        #: 手里的一批何时拿起的；没有则 None。
        self._taken_at: float | None = None
        self._moved = asyncio.Event()
        self._unmarked: list[str] = []
        self._mark_wake = asyncio.Event()
        self._marking = asyncio.Lock()
        self._hurry = asyncio.Event()
        #: 扫描所在的事件循环；还没有开始则 None。
        self.loop: asyncio.AbstractEventLoop | None = None
        self._not_enqueued = RepeatedWarning("enqueue_deferred")
        self._not_marked = RepeatedWarning("mark_enqueued_deferred")
        self._not_swept = RepeatedWarning("outbox_sweep_failed")

    def hurry(self) -> None:
        """发件箱里有不经快路来的（别人的事务、对账者、没能入队的）：立即扫一遍，不等宽限期。"""
        self._hurry.set()

    def hurry_from_anywhere(self) -> None:
        """同 ``hurry``，在别的线程里也行；没有在扫描则无事。"""
        if self.loop is not None and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._hurry.set)

    def submit(self, outgoing: Iterable[Outgoing]) -> None:
        """交来刚提交的消息；立即返回。进程死掉也不丢：它们还在 SQL 里。"""
        for item in outgoing:
            (self._urgent if _is_urgent(item.message) else self._pending).append(item)
        self._wake.set()

    async def run_fast(self) -> None:
        """快路循环：有就取走全部，送不走就放手，催慢路来补。"""
        await periodically(self.drain, self._wake.wait, self._not_enqueued)

    async def drain(self) -> None:
        """把交来的都送走。"""
        self._wake.clear()
        while batch := self._next():
            self._taken_at = time.monotonic()
            try:
                if await self._dispatch(batch, self.direct):
                    self.hurry()
            except MeetingPushError as error:
                self._urgent.clear()
                self._pending.clear()
                self.hurry()
                self._not_enqueued.say(
                    code=error.code,
                    cause=error.cause,
                    messages=len(batch),
                    message_ids=[item.message.message_id for item in batch[:LOGGED_ITEMS]],
                )
            finally:
                self._taken_at = None
                self._moved.set()
                self._moved.clear()

    async def catch_up(
        self, sender_id: int, drafts: Iterable[Draft], pause: Pause | None = nullcontext
    ) -> bool:
        """接受之前的关口：他等着的太多，等投递赶上，至多 ``CATCH_UP_S``；True = 等过。

        都是急的不等。只等走得动的：手里的一批迟迟不回来（Redis 挂着），照收（CON-4）。

        :param pause: 其间不占着什么；None = 不等
        """
        if pause is None or not self._is_ahead(sender_id) or all(map(_is_urgent, drafts)):
            return False
        async with pause():
            with suppress(TimeoutError):
                async with asyncio.timeout(CATCH_UP_S):
                    while self._is_ahead(sender_id):
                        await self._moved.wait()
        return True

    def _is_ahead(self, sender_id: int) -> bool:
        taken_at = self._taken_at
        return (
            taken_at is not None
            and self._pending.of(sender_id) > AHEAD_MESSAGES
            and time.monotonic() - taken_at < SLOW_S
        )

    def _next(self) -> list[Outgoing]:
        """下一批，急的在前。"""
        urgent = self._urgent.take(FAST_MESSAGES, BATCH_UNITS) if len(self._urgent) else []
        room = FAST_MESSAGES - len(urgent)
        return [*urgent, *self._pending.take(room, BATCH_UNITS)] if room else urgent

    async def run_mark(self) -> None:
        """成批记下已入队的。"""
        pause = partial(summoned, self._mark_wake, gather_s=MARK_EVERY_S)
        await periodically(self.mark, pause, self._not_marked)

    async def mark(self) -> None:
        """把已入队而未记下的都记进 SQL；失败时留着下次再记。"""
        self._mark_wake.clear()
        async with self._marking:  # 循环与扫描都来
            marking = tuple(self._unmarked)
            try:
                await self._messages.mark_enqueued(marking, self._clock())
            except MeetingPushError:
                self._mark_wake.set()
                raise
            del self._unmarked[: len(marking)]

    async def run_sweep(self) -> None:
        """慢路循环：每 ``interval_s`` 扫一遍早于宽限期仍未入队的消息。"""
        self.loop = asyncio.get_running_loop()
        self.hurry()  # 启动后的第一遍不等：前一个进程留下的不会再有人送

        async def step() -> None:
            hurried = self._hurry.is_set()
            self._hurry.clear()
            try:
                swept = await self._sweep_in_turn(0 if hurried else self._grace_ms)
            except BaseException:
                if hurried:
                    self._hurry.set()  # 没扫完：下一遍仍不等宽限期
                raise
            if hurried and not swept:
                asyncio.get_running_loop().call_later(TURN_AGAIN_S, self._hurry.set)

        pause = partial(woken, self._hurry, self._interval_s)
        await periodically(step, pause, self._not_swept)

    async def _sweep_in_turn(self, grace_ms: int) -> bool:
        """轮到我才扫：同样的行不必几个进程都入队一遍。False = 别人正扫着。"""
        if not await self._turn.take():
            return False
        await self.sweep(grace_ms)
        await self._turn.give_back()
        return True

    async def sweep(self, grace_ms: int) -> int:
        """补送全部遗留的消息，返回条数。"""
        swept = 0
        full: set[int] = set()
        await self.mark()  # 送走了的不必再来一遍
        before = self._clock() - grace_ms
        while batch := await self._messages.outbox(before, BATCH_MESSAGES, sorted(full)):
            full |= await self._dispatch(batch)
            await self.mark()  # 否则下一页还是它们
            await self._turn.keep()
            swept += len(batch)
            logger.bind(messages=len(batch)).info("outbox_swept")
        if full:
            raise QueueFullError("the bulk queue is full", retry_after_s=1)
        return swept

    async def _dispatch(
        self, batch: Sequence[Outgoing], direct: DirectDelivery | None = None
    ) -> set[int]:
        """返回慢的那条满了、只好留在发件箱里的发送者。"""
        now = self._clock()
        # 过期的不送，只移出发件箱；它们的状态由过期清理记录
        live = [item for item in batch if item.message.expires_at > now]
        bodies = await self._bodies(live, now)
        quick: list[Outgoing] = []
        bulk: list[Outgoing] = []
        for item in live:
            if item.message.message_id in bodies:
                (quick if self._within_share(item, now) else bulk).append(item)
        if direct is not None:
            quick = await self._deliver_some(direct, quick, bodies, now)
        if quick:
            await self._enqueue_live(quick, bodies, now)
            if direct is not None:
                direct.hold(quick)
        left = await self._enqueue_bulk(bulk, bodies, now) if bulk else set[int]()
        staying = {item.message.message_id for item in bulk} if left else set[str]()
        names = [item.message.message_id for item in batch]
        self._unmarked += [name for name in names if name not in staying] if staying else names
        self._mark_wake.set()
        return left

    async def _deliver_some(
        self,
        direct: DirectDelivery,
        batch: Sequence[Outgoing],
        bodies: Mapping[str, Body],
        now: int,
    ) -> list[Outgoing]:
        """投递走短路的，返回其余的。"""
        chosen = direct.select(batch, len(self._pending))
        refused = await direct.deliver(chosen, bodies, now)
        if len(chosen) == len(batch):
            return refused
        done = {item.message.message_id for item in chosen}
        done.difference_update(item.message.message_id for item in refused)
        return [item for item in batch if item.message.message_id not in done]

    def _within_share(self, outgoing: Outgoing, now: int) -> bool:
        return self._shares.spend(outgoing.message.account, len(outgoing.recipient_ids), now)

    async def _enqueue_bulk(
        self, batch: Sequence[Outgoing], bodies: Mapping[str, Body], now: int
    ) -> set[int]:
        try:
            await self._enqueue_live(batch, bodies, now, bulk=True)
        except QueueFullError:  # 只是发得太多的人自己的事
            self._bulk_full_at = now
            return {item.message.account for item in batch}
        return set()

    def check_share(self, sender_id: int) -> None:
        """接受之前的关口：慢的那条满着，超出了自己一份的人等一等；别人照收。

        :raises QueueFullError: 他得等
        """
        now = self._clock()
        if now - self._bulk_full_at < BULK_FULL_MS and self._shares.exceeded(sender_id, now):
            raise QueueFullError("too much of this sender is waiting already", retry_after_s=1)

    async def _bodies(self, batch: Sequence[Outgoing], now: int) -> dict[str, Body]:
        """各条的正文；做不出来的记为失败：它不能挡住后面的。"""
        bodies: dict[str, Body] = {}

        async def encode(items: Sequence[Outgoing]) -> None:
            for item in items:
                m = item.message
                tail = envelope.encode_tail(m)
                bodies[m.message_id] = (m.message_id, tail, int(m.priority), int(m.expires_at))

        spoiled = await self._aside.isolate(batch, encode, lambda item: item.message.message_id)
        if spoiled:
            names = [item.message.message_id for item in spoiled]
            await self._messages.set_aside(names, UNREADABLE, now)
        return bodies

    async def _enqueue_live(
        self,
        batch: Sequence[Outgoing],
        bodies: Mapping[str, Body],
        now: int,
        *,
        bulk: bool = False,
    ) -> None:
        """一次往返：都在同一条连接上，Redis 按次序执行，所以条目入队时正文与状态已在。

        前面的没有写成而后面的写成了也无害：正文可从 SQL 重做，而失败的整批会再来。
        """
        due = [item for item in batch if (item.message.deliver_at or 0) <= now]
        later = [item for item in batch if (item.message.deliver_at or 0) > now]
        await asyncio.gather(
            self._mailbox.store_bodies([bodies[item.message.message_id] for item in batch]),
            self._open_status(batch, now),
            self._queue.batch_enqueue([e for i in due for e in self._entries(i)], bulk=bulk),
            self._queue.schedule(
                [(e, i.message.deliver_at or 0) for i in later for e in self._entries(i)], bulk=bulk
            ),
        )
        self._record([(now, item.message.message_id) for item in batch])

    async def _open_status(self, batch: Sequence[Outgoing], now: int) -> None:
        """开不成，消息照送：结局记在 SQL 里，只是不会重试。"""
        if spoiled := await self._mailbox.open_status(batch, now):
            self._aside.note([message_id for message_id, _ in spoiled], spoiled[0][1])

    def _entries(self, outgoing: Outgoing) -> Iterable[QueueEntry]:
        message = outgoing.message
        # 快路按 POST 的次序交来，扫描按 SQL 的次序：排好序，再入队一次才是同样的条目
        recipients = sorted(outgoing.recipient_ids)
        for start in range(0, len(recipients), self._chunk):
            yield QueueEntry(
                message_id=message.message_id,
                recipient_ids=tuple(recipients[start : start + self._chunk]),
                priority=message.priority,
                expires_at=message.expires_at,
            )


def _is_urgent(message: Message | Draft) -> bool:
    return message.priority >= URGENT_PRIORITY
