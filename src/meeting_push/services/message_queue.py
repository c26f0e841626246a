"""投递队列：两条 Redis Stream（普通、优先）、一个延迟集合、一条死信流。

至少一次：取出的条目在 ``acknowledge`` 之前归取者所有，取者死后由别人认领
（``claim``）。入队是原子的，满了就拒绝整批，绝不裁掉旧的。
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
from loguru import logger

from ..clock import Clock, now_ms
from ..errors import MeetingPushError, QueueFullError
from ..model import URGENT_PRIORITY, QueueEntry
from ..redis.keys import DELIVERY_GROUP
from ..redis.lean import LeanConnection
from ..redis.scripts import Script
from .redis_service import RedisService

ENTRY_VERSION: Final = b"1"
MOVE_BATCH: Final = 500

_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(QueueEntry)
_enqueue: Final = Script("enqueue")
_due: Final = Script("due")
_reject: Final = Script("reject")


@dataclass(frozen=True, slots=True)
class Taken:
    """取到手、尚未确认的一项；``queue`` 是它所在的流。"""

    entry_id: bytes
    queue: str
    entry: QueueEntry


@dataclass(frozen=True, slots=True)
class QueueLength:
    """一条队列此刻的样子；``oldest_age_ms`` 在空队列上为 0。"""

    name: str
    length: int
    pending: int
    oldest_age_ms: int


class MessageQueue:
    """四条队列的门面；可被多个任务同时使用。

    读取要用各消费者自己的连接（``XREADGROUP BLOCK`` 会占住整条连接），写入共用一条。
    """

    def __init__(
        self,
        redis: RedisService,
        *,
        max_length: int,
        starvation_bound: int,
        claim_idle_ms: int,
        clock: Clock = now_ms,
    ) -> None:
        self._redis = redis
        self._keys = redis.keys
        self._max_length = max_length
        self._starvation_bound = starvation_bound
        self._claim_idle_ms = claim_idle_ms
        self._clock = clock
        self._turn = 0
        self._malformed = 0

    # ── 入队 ────────────────────────────────────────────────────────────────

    async def enqueue_message(self, message: QueueEntry, priority: int | None = None) -> None:
        """入队一项；``priority`` 给出时改变它走哪条队列。

        :raises QueueFullError: 没有入队
        :raises RedisUnavailableError: 不知道是否入队；重复入队无害（投递是幂等的）
        """
        entry = message if priority is None else msgspec.structs.replace(message, priority=priority)
        await self.batch_enqueue([entry])

    async def batch_enqueue(self, entries: Sequence[QueueEntry]) -> None:
        """入队一批；每条队列各自原子。满了的那条队列的部分全部被拒绝。

        :raises QueueFullError: 至少一条队列满了
        """
        by_queue: defaultdict[str, list[bytes]] = defaultdict(list)
        for entry in entries:
            by_queue[self._queue_for(entry.priority)].append(_encoder.encode(entry))
        lengths = await asyncio.gather(
            *(
                _enqueue.run(self._redis.lean, [queue], [self._max_length, *encoded])
                for queue, encoded in by_queue.items()
            )
        )
        if -1 in lengths:
            raise QueueFullError("the delivery queue is full", retry_after_s=1)

    async def schedule(self, entries: Sequence[tuple[QueueEntry, int]]) -> None:
        """放进延迟队列，``due_at`` 毫秒时由 ``move_due`` 移出；同一条目重复放入只留一份。"""
        args: list[bytes | int] = []
        for entry, due_at in entries:
            args += [due_at, b"%d%b" % (entry.priority, _encoder.encode(entry))]
        if args:
            await self._redis.lean.execute("ZADD", self._keys.delayed_queue, *args)

    async def move_due(self) -> int:
        """把到期的延迟条目移进队列，返回移了几条（至多 ``MOVE_BATCH``）。"""
        keys = self._keys
        moved = await _due.run(
            self._redis.lean,
            [keys.delayed_queue, keys.delivery_queue, keys.priority_queue],
            [self._clock(), MOVE_BATCH, URGENT_PRIORITY],
        )
        return int(moved)

    async def ensure_room(self) -> None:
        """接受之前的关口。

        :raises QueueFullError: 任一队列已满
        """
        lengths = await asyncio.gather(
            self._redis.lean.execute("XLEN", self._keys.delivery_queue),
            self._redis.lean.execute("XLEN", self._keys.priority_queue),
        )
        if max(lengths) >= self._max_length:
            raise QueueFullError("the delivery queue is full", retry_after_s=1)

    # ── 取出 ────────────────────────────────────────────────────────────────

    async def create_groups(self) -> None:
        """建立消费组（已有则无害）；从头读，免得漏掉建组之前入队的。"""
        for queue in (self._keys.priority_queue, self._keys.delivery_queue):
            try:
                await self._redis.lean.execute(
                    "XGROUP", "CREATE", queue, DELIVERY_GROUP, "0", "MKSTREAM"
                )
            except MeetingPushError as error:
                if "BUSYGROUP" not in error.message:
                    raise

    async def dequeue_message(
        self, consumer: str, connection: LeanConnection, timeout: float = 30
    ) -> Taken | None:
        """取一项；``timeout`` 秒内没有则 None。"""
        taken = await self.batch_dequeue(consumer, connection, 1, timeout)
        return taken[0] if taken else None

    async def batch_dequeue(
        self, consumer: str, connection: LeanConnection, count: int, timeout: float = 30
    ) -> list[Taken]:
        """取至多 ``count`` 项，优先队列在前；每 ``starvation_bound`` 次普通队列先取一次。

        两条都空才阻塞，至多 ``timeout`` 秒。消费组不见了（FLUSHALL、切换）就重建。
        """
        try:
            return await self._take(consumer, connection, count, int(timeout * 1000))
        except MeetingPushError as error:
            if "NOGROUP" not in error.message:
                raise
            await self.create_groups()
            return []

    async def _take(
        self, consumer: str, connection: LeanConnection, count: int, block_ms: int
    ) -> list[Taken]:
        self._turn += 1
        queues = [self._keys.priority_queue, self._keys.delivery_queue]
        if self._turn % self._starvation_bound == 0:
            queues.reverse()
        taken: list[Taken] = []
        for queue in queues:
            if len(taken) < count:
                taken += await self._read(consumer, connection, count - len(taken), [queue])
        if taken or block_ms <= 0:
            return taken
        return await self._read(consumer, connection, count, queues, ("BLOCK", block_ms))

    async def _read(
        self,
        consumer: str,
        connection: LeanConnection,
        count: int,
        queues: Sequence[str],
        block: tuple[str, int] | tuple[()] = (),
    ) -> list[Taken]:
        reply = await connection.execute(
            *("XREADGROUP", "GROUP", DELIVERY_GROUP, consumer, "COUNT", count, *block),
            *("STREAMS", *queues, *(">" for _ in queues)),
        )
        taken: list[Taken] = []
        for stream, items in reply or ():
            taken += await self._parse(stream.decode(), items)
        return taken

    async def claim(self, consumer: str, connection: LeanConnection, count: int) -> list[Taken]:
        """认领别的消费者取走后超过 ``claim_idle_ms`` 没有确认的条目。"""
        taken: list[Taken] = []
        for queue in (self._keys.priority_queue, self._keys.delivery_queue):
            reply = await connection.execute(
                *("XAUTOCLAIM", queue, DELIVERY_GROUP, consumer),
                *(self._claim_idle_ms, "0", "COUNT", count),
            )
            taken += await self._parse(queue, [item for item in reply[1] if item])
        return taken

    async def _parse(self, queue: str, items: Sequence[Sequence[object]]) -> list[Taken]:
        taken = []
        for entry_id, fields in items:
            assert isinstance(entry_id, bytes)
            if fields is None:  # 已被删除、只剩在待确认表里的条目（Redis 6.2 的 XAUTOCLAIM 会给出）
                await self._redis.lean.execute("XACK", queue, DELIVERY_GROUP, entry_id)
                continue
            assert isinstance(fields, list)
            raw = dict(zip(fields[::2], fields[1::2], strict=True))
            try:
                if raw.get(b"v") != ENTRY_VERSION:
                    raise msgspec.ValidationError("unknown entry version")
                taken.append(Taken(entry_id, queue, _decoder.decode(raw.get(b"entry", b""))))
            except msgspec.DecodeError as error:
                self._malformed += 1
                await self._bury(queue, entry_id, raw.get(b"entry", b""), str(error))
        return taken

    # ── 了结 ────────────────────────────────────────────────────────────────

    async def acknowledge(self, taken: Sequence[Taken]) -> None:
        """结果已记录之后才调用；确认并删除。幂等。"""
        by_queue: defaultdict[str, list[bytes]] = defaultdict(list)
        for item in taken:
            by_queue[item.queue].append(item.entry_id)
        lean = self._redis.lean
        replies = []
        for queue, ids in by_queue.items():
            replies.append(lean.execute("XACK", queue, DELIVERY_GROUP, *ids))
            replies.append(lean.execute("XDEL", queue, *ids))
        await asyncio.gather(*replies)

    async def reject(self, taken: Taken, reason: str) -> None:
        """永久失败：带着原因移进死信队列，一步完成。"""
        await self._bury(taken.queue, taken.entry_id, _encoder.encode(taken.entry), reason)

    async def _bury(self, queue: str, entry_id: bytes, raw: bytes, reason: str) -> None:
        logger.bind(queue=queue, entry_id=entry_id.decode(), reason=reason).error("entry_rejected")
        await _reject.run(
            self._redis.lean,
            [self._keys.dead_letter_queue, queue],
            [DELIVERY_GROUP, entry_id, raw, reason, queue],
        )

    # ── 观察 ────────────────────────────────────────────────────────────────

    async def lengths(self) -> list[QueueLength]:
        """四条队列的长度、未确认数与最老条目的年龄。"""
        keys, now = self._keys, self._clock()
        streams = [
            await self._stream_length(name, now)
            for name in (keys.priority_queue, keys.delivery_queue, keys.dead_letter_queue)
        ]
        delayed = await self._redis.lean.execute("ZCARD", keys.delayed_queue)
        return [*streams, QueueLength(keys.delayed_queue, int(delayed), 0, 0)]

    async def waiting(self) -> int:
        """两条投递队列里还没了结的条数。"""
        lean, keys = self._redis.lean, self._keys
        queues = (keys.priority_queue, keys.delivery_queue)
        return sum(await asyncio.gather(*(lean.execute("XLEN", queue) for queue in queues)))

    async def _stream_length(self, name: str, now: int) -> QueueLength:
        lean = self._redis.lean
        length, first = await asyncio.gather(
            lean.execute("XLEN", name), lean.execute("XRANGE", name, "-", "+", "COUNT", 1)
        )
        oldest = now - int(first[0][0].split(b"-")[0]) if first else 0
        return QueueLength(name, int(length), await self._pending(name), max(0, oldest))

    async def _pending(self, name: str) -> int:
        if name == self._keys.dead_letter_queue:
            return 0
        try:
            summary = await self._redis.lean.execute("XPENDING", name, DELIVERY_GROUP)
        except MeetingPushError as error:
            if "NOGROUP" not in error.message:
                raise
            return 0
        return int(summary[0])

    def _queue_for(self, priority: int) -> str:
        urgent = priority >= URGENT_PRIORITY
        return self._keys.priority_queue if urgent else self._keys.delivery_queue
