"""投递队列：两条 Redis Stream（普通、优先）、一个延迟集合、一条死信流；可分成几个分区。

至少一次：取出的条目在了结之前归取者所有，取者死后由别人认领。入队是原子的，满了就拒绝
整批，绝不裁掉旧的；已在队列里的同一条目（同一消息、同样的收件人、同一次尝试）不再加。
"""

from __future__ import annotations

import asyncio
import secrets
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from ..clock import Clock, now_ms
from ..errors import QueueFullError
from ..model import URGENT_PRIORITY, QueueEntry
from ..redis.keys import QueueKeys, errors_key, known_key, partition_of
from ..redis.lean import LeanConnection, Script
from ..redis.redis_service import RedisService
from ..supervision import Aside
from .entries import OnDead, Settlement, Taken, encode_entry
from .queue_reader import QueueReader, TakeRules
from .statistics import QueueLength, QueueRoom, QueueStatistics

__all__ = ["MessageQueue", "QueueLength", "Taken"]

MOVE_BATCH: Final = 500
#: 一起到期的里走快的两条的：每一轮（``consumer_pool.MOVE_EVERY_S``）至多这么多。
DUE_LIVE: Final = 200
#: 慢的那条里有这么多条，到期的就先等着：够消费者忙一阵，又不占满它。
DUE_BULK_ROOM: Final = 2_000
#: 撤回的记号比预约的时刻多留这么久：那时还在路上的条目都已看过它。
CANCEL_MARK_MS: Final = 3_600_000

_enqueue: Final = Script("enqueue")
_due: Final = Script("due")


class MessageQueue:
    """全部队列的门面；可被多个任务同时使用。

    取的一边，每个消费者用自己的 ``open_reader``；``dequeue_message``、``batch_dequeue`` 共用
    一个惰性打开的，给偶尔取一次的人。
    """

    def __init__(
        self,
        redis: RedisService,
        *,
        max_length: int,
        starvation_bound: int = 10,
        claim_idle_ms: int = 30_000,
        max_deliveries: int = 5,
        partitions: int = 1,
        on_dead: OnDead | None = None,
        aside: Aside | None = None,
        clock: Clock = now_ms,
    ) -> None:
        self._redis = redis
        self.partitions = QueueKeys.of(redis.keys, partitions)
        self._max_length = max_length
        self._rules = TakeRules(starvation_bound, claim_idle_ms, max_deliveries)
        self._clock = clock
        self._settlement = Settlement(redis, self.partitions, on_dead, aside)
        self._statistics = QueueStatistics(redis, self.partitions, clock)
        #: 接受之前的关口。
        self.room = QueueRoom(self._lengths, max_length)
        self._own_reader: QueueReader | None = None
        self._own_turn = asyncio.Lock()

    # ── 入队 ────────────────────────────────────────────────────────────────

    async def enqueue_message(self, message: QueueEntry, priority: int | None = None) -> None:
        """入队一项；``priority`` 给出时改变它走哪条队列。

        :raises QueueFullError: 没有入队
        :raises RedisUnavailableError: 不知道是否入队；重复入队无害
        """
        entry = message if priority is None else msgspec.structs.replace(message, priority=priority)
        await self.batch_enqueue([entry])

    async def batch_enqueue(self, entries: Iterable[QueueEntry], *, bulk: bool = False) -> None:
        """入队一批；每条队列各自原子。满了的那条队列的部分全部被拒绝。

        ``bulk``：超出了发送者的一份，走慢的那条；它满了只是发送者自己的事。

        :raises QueueFullError: 至少一条队列满了
        """
        by_queue: defaultdict[str, list[bytes]] = defaultdict(list)
        for entry in entries:
            by_queue[self._queue_for(entry, bulk)].append(encode_entry(entry))
        lengths = await asyncio.gather(
            *(
                _enqueue.run(
                    self._redis.lean, [queue, known_key(queue)], [self._max_length, *encoded]
                )
                for queue, encoded in by_queue.items()
            )
        )
        if not bulk:
            self.room.learn(dict(zip(by_queue, lengths, strict=True)))
        if -1 in lengths:
            raise QueueFullError("the delivery queue is full", retry_after_s=1)

    async def _lengths(self) -> dict[str, int]:
        streams = [queue for keys in self.partitions for queue in (keys.delivery, keys.priority)]
        lengths = await self._redis.lean.execute_many([("XLEN", queue) for queue in streams])
        return dict(zip(streams, lengths, strict=True))

    # ── 延迟 ────────────────────────────────────────────────────────────────

    async def schedule(
        self, entries: Sequence[tuple[QueueEntry, int]], *, bulk: bool = False
    ) -> None:
        """放进延迟队列，``due_at`` 毫秒时由 ``move_due`` 移出；同一条目重复放入只留一份。"""
        by_queue: defaultdict[str, list[bytes | int]] = defaultdict(list)
        for entry, due_at in entries:
            member = b"%d%b" % (entry.priority, encode_entry(entry))
            home = self._home(entry.message_id)
            by_queue[home.delayed_bulk if bulk else home.delayed] += [due_at, member]
        if by_queue:
            await self._redis.lean.execute_many(
                [("ZADD", queue, *args) for queue, args in by_queue.items()]
            )

    async def move_due(self, live: int = DUE_LIVE) -> int:
        """把到期的延迟条目移进队列，返回移了几条（每个分区至多 ``MOVE_BATCH``）。

        至多 ``live`` 条走快的两条，其余的走慢的那条，它有余地才移。钟往回跳，未到期的再等等；
        往前跳，早到的就早送：两样都不丢。
        """
        args = [self._clock(), MOVE_BATCH, URGENT_PRIORITY, self._max_length]
        room = min(DUE_BULK_ROOM, self._max_length)
        moved = await asyncio.gather(
            *(
                _due.run(self._redis.lean, keys, [*args, live if fast else 0, room])
                for keys, fast in self._due_sources()
            )
        )
        return sum(moved)

    async def unschedule(self, message_id: str, due_at: int) -> int:
        """撤回一条预约在 ``due_at`` 的消息，返回移出了几项。幂等。

        先留下记号：此刻正要放进来的（发件箱里的）到期时由消费者凭记号丢弃。
        """
        lean, key = self._redis.lean, self._redis.keys.cancelled_messages
        home = self._home(message_id)
        sets = (home.delayed, home.delayed_bulk)
        _, _, *found = await lean.execute_many(
            [
                ("ZREMRANGEBYSCORE", key, "-inf", self._clock()),
                ("ZADD", key, due_at + CANCEL_MARK_MS, message_id),
                *(("ZRANGEBYSCORE", delayed, due_at, due_at) for delayed in sets),
            ]
        )
        mark = b'"message_id":"%b"' % message_id.encode()
        removed = 0
        for delayed, members in zip(sets, found, strict=True):
            if mine := [member for member in members if mark in member]:
                removed += int(await lean.execute("ZREM", delayed, *mine))
        return removed

    async def cancelled(self, message_ids: Sequence[str]) -> set[str]:
        """其中已被撤回的。"""
        key = self._redis.keys.cancelled_messages
        scores = await self._redis.lean.execute("ZMSCORE", key, *message_ids)
        return {one for one, score in zip(message_ids, scores, strict=True) if score is not None}

    # ── 取出 ────────────────────────────────────────────────────────────────

    async def open_reader(self, name: str, *, max_block_s: float = 30) -> QueueReader:
        """名叫 ``name`` 的消费者的手，用完 ``close``；``max_block_s`` 是它最长的一次等待。"""
        connection = await self._redis.open_lean(f"consumer-{name}", max_block_s=max_block_s)
        reader = QueueReader(name, connection, self.partitions, self._settlement, self._rules)
        try:
            await reader.create_groups()
        except BaseException:
            await reader.close()
            raise
        return reader

    async def dequeue_message(self, timeout: float = 30) -> Taken | None:
        """取一项；``timeout`` 秒内没有则 None。用完要 ``acknowledge`` 或 ``reject``。"""
        taken = await self.batch_dequeue(1, timeout)
        return taken[0] if taken else None

    async def batch_dequeue(self, count: int, timeout: float = 30) -> list[Taken]:
        """取至多 ``count`` 项，优先队列在前；都空才等，至多 ``timeout`` 秒（不超过 30）。"""
        async with self._own_turn:
            if self._own_reader is None:
                self._own_reader = await self.open_reader(f"direct-{secrets.token_hex(4)}")
            return await self._own_reader.take(count, min(timeout, 30))

    async def close(self) -> None:
        """关闭 ``dequeue_message`` 打开的连接；可重复调用。"""
        reader, self._own_reader = self._own_reader, None
        if reader is not None:
            await reader.close()

    # ── 了结 ────────────────────────────────────────────────────────────────

    async def acknowledge(self, taken: Taken | Iterable[Taken]) -> None:
        """结果已记录之后才调用；确认并删除。幂等。"""
        await self._settlement.finish([taken] if isinstance(taken, Taken) else taken)

    async def reject(
        self, taken: Taken, reason: str, *, requeue_after_ms: int | None = None
    ) -> None:
        """做不成：``requeue_after_ms`` 之后再来；没有给，就带着原因进死信队列。一步完成，幂等。"""
        if requeue_after_ms is None:
            await self._settlement.reject(taken, reason)
        else:
            await self._settlement.defer(taken, self._clock() + requeue_after_ms)

    async def record_dead(self, entry: QueueEntry, reason: str) -> None:
        """一项里做不成的收件人记为失败；这一项本身另行了结。"""
        await self._settlement.record_dead(entry, reason)

    async def note_error(self, taken: Taken, error: str) -> None:
        """留着不了结（过 ``claim_idle_ms`` 有人再试），但记下这次意外。"""
        await self._settlement.note_error(taken, error)

    async def hold(self, consumer: str, taken: Iterable[Taken]) -> None:
        """见 ``Settlement.hold``。"""
        await self._settlement.hold(consumer, taken)

    async def clear(self) -> None:
        """丢掉全部条目，死信除外。只有对账者在 Redis 丢过数据之后用：它随后从记录重新放入。"""
        for keys in self.partitions:
            extra = [of(stream) for stream in keys.streams for of in (known_key, errors_key)]
            gone = (*keys.streams, keys.delayed, keys.delayed_bulk, *extra)
            await self._redis.lean.execute("UNLINK", *gone)

    # ── 观察 ────────────────────────────────────────────────────────────────

    async def lengths(self) -> list[QueueLength]:
        """每条队列的长度、未确认数、未取数与最老条目的年龄。"""
        return await self._statistics.lengths()

    @property
    def statistics(self) -> QueueStatistics:
        return self._statistics

    @property
    def lean(self) -> LeanConnection:
        return self._redis.lean

    def _due_sources(self) -> list[tuple[list[str], bool]]:
        """各分区的延迟集合；重试与重新入队不分区（``retry.lua``），归第一个分区移出。

        假的只走慢的那条。
        """
        first = self.partitions[0]
        sources = [(_due_keys(keys.delayed, keys), True) for keys in self.partitions]
        unpartitioned = self._redis.keys.delayed_queue
        if first.delayed != unpartitioned:
            sources.append((_due_keys(unpartitioned, first), True))
        return [*sources, *((_due_keys(k.delayed_bulk, k), False) for k in self.partitions)]

    def _home(self, message_id: str) -> QueueKeys:
        return self.partitions[partition_of(message_id, len(self.partitions))]

    def _queue_for(self, entry: QueueEntry, bulk: bool = False) -> str:
        home = self._home(entry.message_id)
        if bulk:
            return home.bulk
        return home.priority if entry.priority >= URGENT_PRIORITY else home.delivery


def _due_keys(delayed: str, keys: QueueKeys) -> list[str]:
    streams = [keys.delivery, keys.priority, keys.bulk]
    return [delayed, *streams, *map(known_key, streams)]
