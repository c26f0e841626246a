"""重试与过期的各部件，接在真的 Redis 子进程与 SQLite 上；没有网关，没有消费者。"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final

import msgspec
from ulid import ULID

from meeting_push.clock import now_ms
from meeting_push.deliver.message_publisher import MessagePublisher
from meeting_push.deliver.offline_message_queue import Delivery, OfflineMessageQueue
from meeting_push.model import FailureCause, Message, Outgoing, Sender
from meeting_push.outcome.dead_letters import DeadLetters, DeliveryFailures
from meeting_push.outcome.delivery_confirmation_service import Receipts
from meeting_push.outcome.expiry_sweeper import ExpirySweeper
from meeting_push.outcome.retry_service import RetryService
from meeting_push.protocol.envelope import encode_tail
from meeting_push.protocol.sent import Overdue
from meeting_push.queue.message_queue import MessageQueue
from meeting_push.redis.outcomes import Outcomes
from meeting_push.redis.redis_service import RedisService
from meeting_push.settings import Settings
from meeting_push.storage.database import Database
from meeting_push.storage.messages import MessageRepository, StoredBodies
from meeting_push.storage.outcomes import OutcomeRepository
from meeting_push.storage.recipients import RecipientRepository
from meeting_push.supervision import Aside

from ..queue import unrecorded
from ..redis_child import redis_child


class RetriesPlan(msgspec.Struct, frozen=True, kw_only=True):
    """``scheduled``：没有到期的，均匀地在 ``spread_s`` 里。

    ``messages`` × ``recipients`` 个等不到确认的收件人，每轮都认领一次、移出一次；最后一起过期。
    """

    scheduled: int = 1_000_000
    spread_s: int = 900
    messages: int = 200
    recipients: int = 500
    idle_looks: int = 1_000
    schedule_batch: int = 500

    @property
    def claims(self) -> int:
        return self.messages * self.recipients


QUICK_RETRIES: Final = RetriesPlan(scheduled=2_000, messages=4, recipients=50, idle_looks=20)


#: 消息的有效期：长于延迟队列里最晚的。
_TTL_MS: Final = 6 * 3_600_000
_MAX_ATTEMPTS: Final = 3
_BATCH: Final = 1_000

Pair = tuple[str, int]


class Lab:
    """``now``：拨得动的钟；``pairs``：在信箱里、等不到确认的（消息, 收件人）。"""

    def __init__(self, redis: RedisService, database: Database, plan: RetriesPlan) -> None:
        settings = Settings()
        self.now = now_ms()
        self.redis = redis
        self.plan = plan
        self.pairs: list[Pair] = []
        self.outcomes = Outcomes(redis.lean, redis.keys, settings.messages.ttl_s * 1000)
        self.queue = MessageQueue(
            redis,
            max_length=plan.scheduled + plan.claims,
            on_dead=unrecorded,
            aside=Aside("dead-letters"),
            clock=lambda: self.now,
        )
        self._database = database
        self._messages = MessageRepository(database)
        self._mailbox = OfflineMessageQueue(redis, StoredBodies(self._messages), settings.messages)
        record = OutcomeRepository(database)
        publisher = MessagePublisher(redis, max_bytes=settings.messages.max_content_bytes)
        receipts = Receipts(publisher)
        failures = DeliveryFailures(
            outcomes=self.outcomes,
            record=record,
            recipients=RecipientRepository(database),
            mailbox=self._mailbox,
            receipts=receipts,
        )
        self._retries = RetryService(
            outcomes=self.outcomes,
            record=record,
            failures=failures,
            max_attempts=_MAX_ATTEMPTS,
            clock=lambda: self.now,
            aside=Aside("retry"),
        )
        self.expiry = ExpirySweeper(
            redis=redis,
            outcomes=self.outcomes,
            record=record,
            dead_letters=DeadLetters(redis, failures),
            receipts=receipts,
            interval_s=settings.delivery.expiry_interval_s,
            agreed=self._agreed,
            aside=Aside("expiry"),
        )

    async def _agreed(self) -> int:
        return self.now

    async def accept(self) -> None:
        """接受并投递全部消息；没有人在线。"""
        users = range(1, 1 + self.plan.recipients)
        for _ in range(self.plan.messages):
            message = self._message()
            async with self._database.transaction() as connection:
                await self._messages.insert(connection, [Outgoing(message, users)])
            await self._deliver(message, users)
            self.pairs += [(message.message_id, user) for user in users]

    async def _deliver(self, message: Message, users: Sequence[int]) -> None:
        tail = encode_tail(message)
        delivery = Delivery(
            message_id=message.message_id,
            tail=tail,
            recipient_ids=tuple(users),
            priority=message.priority,
            expires_at=message.expires_at,
        )
        status = self.redis.keys.delivery_status(message.message_id)
        fields = ("total", len(users), "priority", 0, "expires_at", message.expires_at)
        await self.redis.lean.execute("HSET", status, *fields)
        await self._mailbox.store_bodies([(message.message_id, tail, 0, message.expires_at)])
        await self._mailbox.deliver([delivery])

    def _message(self) -> Message:
        return Message(
            message_id=str(ULID.from_timestamp(self.now / 1000)),
            message_type="message",
            priority=0,
            title="t",
            content="x" * 100,
            sender=Sender(1, "bench"),
            timestamp=self.now,
            expires_at=self.now + _TTL_MS,
        )

    async def claim(self, known: int) -> int:
        """只是裁决（``retry.lua``），返回认领到几条。"""
        claimed = 0
        for start in range(0, len(self.pairs), _BATCH):
            rows = [(i, user, known) for i, user in self.pairs[start : start + _BATCH]]
            answers = await self.outcomes.claim(rows, _MAX_ATTEMPTS, self.now)
            claimed += sum(answer.attempts == known + 1 for answer in answers)
        return claimed

    async def claim_and_record(self, known: int) -> int:
        """整个登记：裁决，再把次数记进 SQL；返回认领到几条。"""
        done, settled = asyncio.Event(), list[int | None]()

        def settle(_message_id: str, attempt: int | None) -> None:
            settled.append(attempt)
            if len(settled) == len(self.pairs):
                done.set()

        for message_id, user_id in self.pairs:
            overdue = Overdue(message_id, known)
            self._retries.claim(user_id, [overdue], settle, lambda: FailureCause.CLIENT)
        running = asyncio.create_task(self._retries.run())
        try:
            await done.wait()
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        return sum(attempt == known + 1 for attempt in settled)

    async def move_all(self) -> int:
        moved = 0
        while some := await self.queue.move_due():
            moved += some
        return moved

    def past_expiry(self) -> None:
        self.now += _TTL_MS + 3_600_000


@contextlib.asynccontextmanager
async def lab(plan: RetriesPlan) -> AsyncIterator[Lab]:
    with tempfile.TemporaryDirectory(prefix="mp-bench-") as name:
        database = Database(f"sqlite:///{Path(name)}/bench.db", Settings().database.timeout_s)
        await database.migrate()
        try:
            async with redis_child() as redis:
                one = Lab(redis, database, plan)
                yield one
                await one.queue.close()
        finally:
            await database.dispose()
