"""直接投递：收下消息的进程自己把小的、此刻的送进信箱；队列留给别的（决定 0014）。

走短路的：此刻就该送的、在发送者一份之内的、收件人不多的。别的都走队列：很多收件人的、预约的、重试的、
超出一份的、从发件箱扫描来的；Redis 慢了或出了错、这个进程落后了，也交还给队列。

次序（一个进程里，同一发送者、同一优先级）：走短路的按提交的次序取得 seq。前面有一条走了队列，
后面的跟着走，直到看见队列空过，至多 ``HOLD_S``：此后的才可能超过它。
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from ..deliver.offline_message_queue import OfflineMessageQueue
from ..errors import MeetingPushError, RedisCommandError
from ..logs import RepeatedWarning
from ..model import MessageKind, Outgoing
from ..node.flight_recorder import OFF, FlightRecorder
from ..queue.message_queue import MessageQueue
from ..redis.bodies import Body
from ..supervision import Aside
from .drafts import KINDS

#: 一次写出至多大约这么多份：Redis 约 10 ms，别人的命令等得起。
FLUSH_RECIPIENTS: Final = 1_000
#: 一个来回超过它，Redis（或这个进程）就是慢了：歇 ``REST_S``，其间都走队列。
SLOW_S: Final = 0.25
REST_S: Final = 1.0
#: 等着的多于它，这个进程就是落后了：一两秒的积压。太小，一阵子的忙就落进更费的队列，越走越慢；
#: 太大，占内存，久过 ``relay_grace_s`` 的还会被扫描再送一遍。
BEHIND_MESSAGES: Final = 10_000
#: 跟着前一条走队列，至多这么久：积压时也不会一直留在更费的那条路上。
HOLD_S: Final = 2.0
#: 至多记得这么多个跟着走队列的发送者；忘掉最早的。
MAX_HELD: Final = 10_000


@dataclass(slots=True)
class DirectTally:
    """只增；``recipients``、``reached`` 同 ``ConsumerStatistics``。"""

    messages: int = 0
    recipients: int = 0
    reached: int = 0
    #: 没有成、交还给队列的消息。
    handed_back: int = 0
    delivered: Counter[MessageKind] = field(default_factory=Counter)


class DirectDelivery:
    """``most_recipients``：一条消息至多这么多收件人；0 = 都走队列。"""

    def __init__(
        self,
        mailbox: OfflineMessageQueue,
        queue: MessageQueue,
        *,
        most_recipients: int,
        aside: Aside,
        recorder: FlightRecorder = OFF,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._mailbox = mailbox
        self._queue = queue
        self._most = most_recipients
        self._aside = aside
        self._enqueued, self._taken = recorder.enqueued.extend, recorder.taken.extend
        self._clock = clock
        self._rests_until = float("-inf")
        #: 发送者 → 从何时起跟着走队列，最近一条何时放进去的。
        self._held: dict[int, tuple[float, float]] = {}
        self._refused = RepeatedWarning("direct_delivery_refused")
        self.tally = DirectTally()

    def select(self, batch: Sequence[Outgoing], waiting: int) -> list[Outgoing]:
        """``batch`` 里走短路的，急的在前；``waiting`` 是这个进程里还等着的条数。"""
        if waiting > BEHIND_MESSAGES or self._clock() < self._rests_until:
            return []
        chosen: list[Outgoing] = []
        behind: set[int] = set()  # 同一批里他的前一条走了队列
        urgent = False
        for item in batch:
            message = item.message
            if message.deliver_at is not None:
                continue
            if (behind and message.account in behind) or self._is_queued(item):
                behind.add(message.account)
            else:
                chosen.append(item)
                urgent = urgent or message.priority > 0
        if urgent:
            chosen.sort(key=_least_urgent)
        return chosen

    def hold(self, queued: Sequence[Outgoing]) -> None:
        """这些刚放进了队列：它们的发送者后面的跟着走。"""
        now = self._clock()
        for item in queued:
            if item.message.deliver_at is None:
                sender_id = item.message.account
                is_first = len(item.recipient_ids) > self._most or not self._is_held(sender_id)
                self._held[sender_id] = (now if is_first else self._held[sender_id][0], now)
        while len(self._held) > MAX_HELD:
            del self._held[next(iter(self._held))]

    def _is_queued(self, item: Outgoing) -> bool:
        return len(item.recipient_ids) > self._most or (
            bool(self._held) and self._is_held(item.message.account)
        )

    def _is_held(self, sender_id: int) -> bool:
        held = self._held.get(sender_id)
        if held is None:
            return False
        since, last = held
        if self._queue.room.empty_at > last or self._clock() - since > HOLD_S:
            del self._held[sender_id]
            return False
        return True

    async def deliver(
        self, batch: Sequence[Outgoing], bodies: Mapping[str, Body], now: int
    ) -> list[Outgoing]:
        """投递，返回没有成而要走队列的：有一个人的键坏了，消费者会把它挑出来。

        :raises MeetingPushError: 暂时的；不知道成了哪些，整批再来无害
        """
        left: list[Outgoing] = []
        for part in _parts(batch):
            started = self._clock()
            try:
                await self._flush(part, bodies, now)
            except RedisCommandError as error:
                self._hand_back(part, error)
                left += part
            except MeetingPushError:
                self._rests_until = self._clock() + REST_S
                raise
            else:
                if self._clock() - started > SLOW_S:
                    self._rests_until = self._clock() + REST_S
        return left

    def _hand_back(self, part: Sequence[Outgoing], error: MeetingPushError) -> None:
        self.tally.handed_back += len(part)
        self._refused.say(code=error.code, cause=error.cause, messages=len(part))

    async def _flush(self, part: Sequence[Outgoing], bodies: Mapping[str, Body], now: int) -> None:
        seen = [_sighted(item, now) for item in part]
        self._enqueued([each[:2] for each in seen])
        self._taken(seen)
        whole = [bodies[each[1]] for each in seen]
        rows, spoiled = await self._mailbox.deliver_fresh(part, whole, now, self._queue.note_live())
        if spoiled:
            self._aside.note([message_id for message_id, _ in spoiled], spoiled[0][1])
        tally, delivered = self.tally, self.tally.delivered
        tally.messages += len(part)
        for item, row in zip(part, rows, strict=True):
            message, count = item.message, len(row)
            tally.recipients += count
            delivered[KINDS[message.message_type, message.priority]] += count
            for one in row:
                if one.receivers:
                    tally.reached += 1


def _least_urgent(item: Outgoing) -> int:
    return -item.message.priority


def _parts(batch: Sequence[Outgoing]) -> Iterator[Sequence[Outgoing]]:
    """一段大约 ``FLUSH_RECIPIENTS`` 份。"""
    start = size = 0
    for index, item in enumerate(batch, 1):
        size += len(item.recipient_ids)
        if size >= FLUSH_RECIPIENTS:
            yield batch[start:index]
            start, size = index, 0
    if start < len(batch):
        yield batch[start:]


def _sighted(item: Outgoing, now: int) -> tuple[int, str, int, int, int]:
    recipients, message_id = item.recipient_ids, item.message.message_id
    if len(recipients) == 1:
        return now, message_id, recipients[0], recipients[0], 0
    return now, message_id, min(recipients), max(recipients), 0
