"""投递队列：两条 Redis Stream（普通、优先）、一个延迟集合、一条死信流；可分成几个分区。

至少一次：取出的条目在了结之前归取者所有，取者死后由别人认领。入队是原子的，满了就拒绝
整批，绝不裁掉旧的；已在队列里的同一条目（同一消息、同样的收件人、同一次尝试）不再加。
"""

from __future__ import annotations

import asyncio
import secrets
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Final

import msgspec

from ..clock import Clock, now_ms
from ..errors import QueueFullError
from ..model import URGENT_PRIORITY, QueueEntry
from ..redis.group_reader import GroupReader, SpreadReader
from ..redis.keys import QueueKeys
from ..redis.lean import LeanConnection
from ..redis.link import Argument
from ..redis.redis_service import RedisService
from ..redis.strays import Strays
from ..redis.streams import QueueLength, QueueStreams
from ..supervision import Aside
from .queue_reader import (
    OnDead,
    QueueReader,
    Settlement,
    Taken,
    TakeRules,
    delayed_member,
    encode_entry,
)
from .room import LIVE_LOOK_S, LiveTraffic, QueueRoom

__all__ = ["MessageQueue", "QueueLength", "Taken"]

MOVE_BATCH: Final = 500
#: 一起到期的里走快的两条的：每一轮（``consumer_pool.MOVE_EVERY_S``）至多这么多。
DUE_LIVE: Final = 200
#: 慢的那条里有这么多条，到期的就先等着：够消费者忙一阵，又不占满它。
DUE_BULK_ROOM: Final = 2_000


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
        on_dead: OnDead,
        aside: Aside,
        clock: Clock = now_ms,
    ) -> None:
        self._redis = redis
        self.partitions = QueueKeys.of(redis.keys, partitions)
        #: 一条流至多这么多项。
        self.max_length = max_length
        self._rules = TakeRules(starvation_bound, claim_idle_ms, max_deliveries)
        self._clock = clock
        #: Redis 里的各条流：积压、撤回的、消费组里的名字。
        self.streams = QueueStreams(redis.lean, redis.keys, self.partitions)
        self._traffic = LiveTraffic(self.streams.telling_live())
        #: 要不经队列投递此刻的消息。
        self.note_live = self._traffic.telling
        #: 不常走的了结：握着、记下意外、记为失败。
        self.settlement = Settlement(self.streams, on_dead, aside)
        self._strays = Strays(
            redis.lean, redis.keys, self.partitions, self.streams, self.settlement.as_delayed
        )
        #: 接受之前的关口。
        self.room = QueueRoom(self.streams.fast_lengths, max_length)
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
        lengths = await self.streams.append(by_queue, self.max_length)
        if not bulk:
            self.room.learn(lengths)
        if -1 in lengths.values():
            raise QueueFullError("the delivery queue is full", retry_after_s=1)

    async def look_for_live(self) -> None:
        """别的进程投递了此刻的消息没有；比 ``CALM_S`` 更常来看才不漏。"""
        if await self.streams.told_live():
            self._traffic.note(LIVE_LOOK_S)

    # ── 延迟 ────────────────────────────────────────────────────────────────

    async def schedule(
        self, entries: Sequence[tuple[QueueEntry, int]], *, bulk: bool = False
    ) -> None:
        """放进延迟队列，``due_at`` 毫秒时由 ``move_due`` 移出；同一条目重复放入只留一份。"""
        by_queue: defaultdict[str, list[Argument]] = defaultdict(list)
        for entry, due_at in entries:
            home = self.streams.home(entry.message_id)
            by_queue[home.delayed_bulk if bulk else home.delayed] += [due_at, delayed_member(entry)]
        await self.streams.delay(by_queue)

    async def move_due(self, live: int = DUE_LIVE) -> int:
        """把到期的延迟条目移进队列，返回移了几条（每个分区至多 ``MOVE_BATCH``）。

        至多 ``live`` 条走快的两条，其余的走慢的那条，它有余地才移。钟往回跳，未到期的再等等；
        往前跳，早到的就早送：两样都不丢。
        """
        return await self.streams.move_due(
            self._clock(),
            MOVE_BATCH,
            live=live,
            max_length=self.max_length,
            bulk_room=min(DUE_BULK_ROOM, self.max_length),
        )

    async def bring_strays_home(self) -> int:
        """留在从前的分区里的（``queue_partitions`` 改过）搬回来，返回搬了几项；没有了才是 0。"""
        return await self._strays.bring_home(self._clock())

    async def unschedule(self, message_id: str, due_at: int) -> int:
        """撤回一条预约在 ``due_at`` 的消息，返回移出了几项。幂等。

        先留下记号：此刻正要放进来的（发件箱里的）到期时由消费者凭记号丢弃。
        """
        return await self.streams.cancel(message_id, due_at, self._clock())

    # ── 取出 ────────────────────────────────────────────────────────────────

    async def open_reader(self, name: str, *, max_block_s: float = 30) -> QueueReader:
        """名叫 ``name`` 的消费者的手，用完 ``close``；``max_block_s`` 是它最长的一次等待。"""
        hand = await self._hand(name, partial(self._redis.open_lean, max_block_s=max_block_s))
        reader = QueueReader(hand, self.partitions, self.settlement, self._rules, self._traffic)
        try:
            await reader.open()
        except BaseException:
            await reader.close()
            raise
        return reader

    async def _hand(self, name: str, line: Callable[..., Awaitable[LeanConnection]]) -> GroupReader:
        shared = self._redis.lean
        if self._redis.keys.tagged:
            return SpreadReader(shared, name, self.partitions, partial(line, f"consumer-{name}"))
        return GroupReader(await line(f"consumer-{name}"), name, shared)

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
        await self.settlement.finish([taken] if isinstance(taken, Taken) else taken)

    async def reject(
        self, taken: Taken, reason: str, *, requeue_after_ms: int | None = None
    ) -> None:
        """做不成：``requeue_after_ms`` 之后再来；没有给，就带着原因进死信队列。一步完成，幂等。"""
        if requeue_after_ms is None:
            await self.settlement.reject(taken, reason)
        else:
            await self.settlement.defer(taken, self._clock() + requeue_after_ms)

    # ── 观察 ────────────────────────────────────────────────────────────────

    async def lengths(self) -> list[QueueLength]:
        """每条队列的长度、未确认数、未取数与最老条目的年龄。"""
        return await self.streams.lengths(self._clock())

    def _queue_for(self, entry: QueueEntry, bulk: bool = False) -> str:
        home = self.streams.home(entry.message_id)
        if bulk:
            return home.bulk
        return home.priority if entry.priority >= URGENT_PRIORITY else home.delivery
