"""消费者：从队列取，投递进信箱并发布，记录后才确认。

至少一次：确认之前死掉的，由别的消费者认领；投递按消息 id 幂等，所以重做无害。
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from loguru import logger

from ..clock import Clock, now_ms
from ..errors import MeetingPushError
from ..redis.lean import LeanConnection
from ..supervision import Supervisor
from .message_queue import MessageQueue, Taken
from .offline_message_queue import Delivery, OfflineMessageQueue
from .redis_service import RedisService

#: 暂时性失败（Redis 断开）之后等这么久再取。
RETRY_AFTER_S: Final = 0.2
#: 关机时隔这么久再叫醒一次。
WAKE_AGAIN_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class ConsumerStatistics:
    """一个消费者的快照。"""

    name: str
    entries: int
    recipients: int
    reached: int
    expired: int
    claimed: int
    failures: int
    last_progress: int


class MessageConsumer:
    """一个消费者；``run`` 是它的一生，由监督者重启。"""

    def __init__(
        self,
        name: str,
        redis: RedisService,
        queue: MessageQueue,
        mailbox: OfflineMessageQueue,
        *,
        batch_entries: int,
        block_ms: int,
        claim_every_ms: int,
        clock: Clock = now_ms,
    ) -> None:
        self.name = name
        self._redis = redis
        self._queue = queue
        self._mailbox = mailbox
        self._batch_entries = batch_entries
        self._block_s = block_ms / 1000
        self._claim_every_ms = claim_every_ms
        self._clock = clock
        self._next_claim = 0
        self._entries = self._recipients = self._reached = 0
        self._expired = self._claimed = self._failures = 0
        self._last_progress = clock()
        self._stopping = False
        self._client_id = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def statistics(self) -> ConsumerStatistics:
        return ConsumerStatistics(
            self.name,
            self._entries,
            self._recipients,
            self._reached,
            self._expired,
            self._claimed,
            self._failures,
            self._last_progress,
        )

    async def run(self) -> None:
        """取、投递、确认，直到 ``drain`` 或被取消；取消时正在处理的一批会被别人认领。"""
        self._idle.clear()
        try:
            await self._consume()
        finally:
            self._idle.set()

    async def _consume(self) -> None:
        connection = await self._redis.open_lean(f"consumer-{self.name}", max_block_s=self._block_s)
        try:
            self._client_id = await connection.execute("CLIENT", "ID")
            await self._queue.create_groups()
            while not self._stopping:
                await self._step(connection)
        finally:
            await connection.close()

    async def drain(self) -> None:
        """不再取；手上的一批投递并确认之后返回。正空等着的立刻叫醒。"""
        self._stopping = True
        while not self._idle.is_set():
            # 可能恰在两次读取之间，还没阻塞：那一声它听不见，过一会儿再叫
            await self._redis.lean.execute("CLIENT", "UNBLOCK", self._client_id)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), WAKE_AGAIN_S)

    async def _step(self, connection: LeanConnection) -> None:
        try:
            taken = await self._claim(connection)
            taken += await self._queue.batch_dequeue(
                self.name, connection, self._batch_entries, 0 if taken else self._block_s
            )
            self._last_progress = self._clock()
            if taken:
                await self.process(taken)
        except MeetingPushError as error:
            if not error.temporary:
                raise
            self._failures += 1
            logger.bind(consumer=self.name, code=error.code).warning("consumer_waits")
            await asyncio.sleep(RETRY_AFTER_S)

    async def _claim(self, connection: LeanConnection) -> list[Taken]:
        now = self._clock()
        if now < self._next_claim:
            return []
        self._next_claim = now + self._claim_every_ms
        claimed = await self._queue.claim(self.name, connection, self._batch_entries)
        self._claimed += len(claimed)
        return claimed

    async def process(self, taken: Sequence[Taken]) -> None:
        """投递一批并确认；过期的不投递（状态由过期清理记录），也确认。"""
        now = self._clock()
        live = [item for item in taken if item.entry.expires_at > now]
        self._expired += len(taken) - len(live)
        tails = await self._mailbox.tails([item.entry.message_id for item in live])
        deliverable = [item for item in live if item.entry.message_id in tails]
        for item in live:
            if item.entry.message_id not in tails:
                await self._queue.reject(item, "body_gone")
        delivered = await self._mailbox.deliver(
            [self._delivery(item, tails) for item in deliverable]
        )
        self._entries += len(taken)
        self._recipients += sum(map(len, delivered))
        self._reached += sum(1 for row in delivered for one in row if one.receivers)
        await self._queue.acknowledge([i for i in taken if i not in live or i in deliverable])

    @staticmethod
    def _delivery(item: Taken, tails: dict[str, bytes]) -> Delivery:
        entry = item.entry
        return Delivery(
            message_id=entry.message_id,
            tail=tails[entry.message_id],
            recipient_ids=entry.recipient_ids,
            priority=entry.priority,
            expires_at=entry.expires_at,
            attempt=entry.attempt,
        )


class ConsumerPool:
    """若干消费者，各在自己的监督循环里；另有一个循环移出到期的延迟条目。"""

    def __init__(self, consumers: Sequence[MessageConsumer], queue: MessageQueue) -> None:
        self._consumers = tuple(consumers)
        self._queue = queue

    def start(self, supervisor: Supervisor) -> None:
        for consumer in self._consumers:
            supervisor.start(f"consumer-{consumer.name}", consumer.run)
        supervisor.start("delayed-mover", self._move_due)

    async def drain(self, timeout_s: float) -> None:
        """关机：各消费者做完手上的；超时就放手，没确认的由别人认领。"""
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.gather(*(consumer.drain() for consumer in self._consumers))
        except (TimeoutError, MeetingPushError) as error:
            logger.bind(reason=type(error).__name__).warning("consumers_left_at_shutdown")

    def statistics(self) -> list[ConsumerStatistics]:
        return [consumer.statistics for consumer in self._consumers]

    async def _move_due(self) -> None:
        while True:
            try:
                while await self._queue.move_due():
                    pass
            except MeetingPushError as error:
                logger.bind(code=error.code).warning("move_due_failed")
            await asyncio.sleep(RETRY_AFTER_S)
