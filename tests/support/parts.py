"""结局的各部件，接在真实的 Redis 与 SQL 上，没有服务器进程。"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from ulid import ULID

from meeting_push.clock import now_ms
from meeting_push.deliver.offline_message_queue import Delivery, OfflineMessageQueue
from meeting_push.model import Ack, Message, Outgoing, Sender
from meeting_push.outcome.dead_letters import DeadLetters, DeliveryFailures
from meeting_push.outcome.delivery_confirmation_service import DeliveryConfirmationService, Receipts
from meeting_push.outcome.expiry_sweeper import ExpirySweeper
from meeting_push.outcome.mailbox_evictor import MailboxEvictor
from meeting_push.protocol.envelope import encode_tail
from meeting_push.redis.keys import QueueKeys
from meeting_push.redis.outcomes import Outcomes
from meeting_push.redis.redis_service import RedisService
from meeting_push.settings import load_settings
from meeting_push.storage.database import Database
from meeting_push.storage.messages import MessageRepository, StoredBodies
from meeting_push.storage.outcomes import OutcomeRepository
from meeting_push.storage.recipients import DeliveryReports, RecipientRepository
from meeting_push.supervision import Aside
from tests.support.queueing import message_queue

USER = 7


class RecordingChannel:
    """``contracts.UserChannel`` 的替身。"""

    def __init__(self) -> None:
        self.published: list[tuple[int, bytes]] = []

    async def publish_frame(self, user_id: int, frame: bytes) -> int:
        self.published.append((user_id, frame))
        return 1


class Parts:
    """``now`` 是拨得动的时钟。"""

    def __init__(self, redis: RedisService, database: Database, **settings: object) -> None:
        self.now = now_ms()
        self.redis = redis
        [self.queue_keys] = QueueKeys.of(redis.keys, 1)
        self.messages = MessageRepository(database)
        self.database = database
        self.record = OutcomeRepository(database)
        self.recipients = RecipientRepository(database)
        self.reports = DeliveryReports(database)
        self.outcomes = Outcomes(redis.lean, redis.keys, 60_000)
        self.channel = RecordingChannel()
        receipts = Receipts(self.channel)
        self.mailbox = OfflineMessageQueue(
            redis, StoredBodies(self.messages), load_settings(**settings).messages
        )
        self.queue = message_queue(
            redis, max_length=1_000, starvation_bound=10, claim_idle_ms=1_000, clock=self.clock
        )
        self.confirmation = DeliveryConfirmationService(
            outcomes=self.outcomes,
            recipients=self.recipients,
            reports=self.reports,
            mailbox=self.mailbox,
            receipts=receipts,
            flush_ms=0,
            clock=self.clock,
            aside=Aside("confirm"),
        )
        self.failures = DeliveryFailures(
            outcomes=self.outcomes,
            record=self.record,
            recipients=self.recipients,
            mailbox=self.mailbox,
            receipts=receipts,
            clock=self.clock,
        )
        self.aside = Aside("evictions")
        self.evictor = MailboxEvictor(self.mailbox, self.record, self.failures.fail, self.aside)
        self.dead_letters = DeadLetters(redis, self.failures)
        self.expiry = ExpirySweeper(
            redis=redis,
            outcomes=self.outcomes,
            record=self.record,
            dead_letters=self.dead_letters,
            receipts=receipts,
            interval_s=1,
            agreed=self.agreed,
            aside=Aside("expiry"),
        )

    def clock(self) -> int:
        return self.now

    async def agreed(self) -> int:
        """大家的钟都是拨得动的这一个。"""
        return self.now

    async def accept(self, *user_ids: int, ttl_ms: int = 60_000, **fields: Any) -> Message:
        """接受一条，不投递。"""
        values: dict[str, Any] = {
            "message_id": str(ULID.from_timestamp(self.now / 1000)),
            "message_type": "message",
            "priority": 0,
            "title": "t",
            "content": "c",
            "sender": Sender(1, "ann"),
            "timestamp": self.now,
            "expires_at": self.now + ttl_ms,
        }
        message = Message(**values | fields)
        async with self.database.transaction() as connection:
            await self.messages.insert(connection, [Outgoing(message, user_ids or (USER,))])
        return message

    async def deliver(self, *user_ids: int, **fields: Any) -> str:
        """接受并放进信箱，返回 message_id。"""
        users = user_ids or (USER,)
        message = await self.accept(*users, **fields)
        tail = encode_tail(message)
        await self.mailbox.store_bodies([(message.message_id, tail, 0, message.expires_at)])
        await self.mailbox.open_status([Outgoing(message, users)], self.now)
        await self.mailbox.deliver([delivery(message, users)])
        return message.message_id

    async def ack(self, message_id: str) -> None:
        """确认，并等它写完。"""
        self.confirmation.record(USER, [Ack(message_id, 1, self.now, self.now)])
        await self.written()

    async def written(self) -> None:
        """登记的确认都写完了。"""
        writer = asyncio.create_task(self.confirmation.run())
        await self.confirmation.drain(10)
        writer.cancel()

    async def claim(self, message_id: str, known: int, user_id: int = USER) -> tuple[int, int]:
        [answer] = await self.outcomes.claim([(message_id, user_id, known)], 3, self.now)
        return answer.verdict, answer.attempts

    async def status(self, message_id: str, user_id: int = USER) -> tuple[str, str | None]:
        """SQL 里的 (状态, 原因)。"""
        page = await self.recipients.page(message_id, user_id - 1, 1)
        return page.items[0].status.value, page.items[0].failure_reason

    async def redis_status(self, message_id: str, user_id: int = USER) -> str | None:
        key = self.redis.keys.delivery_status(message_id)
        value = await self.redis.lean.execute("HGET", key, f"u:{user_id}")
        return None if value is None else str(value.decode().split(":")[0])

    async def held(self, user_id: int = USER) -> list[str]:
        return await self.mailbox.message_ids(user_id)

    async def letters(self) -> int:
        """记了失败的，与队列自己放弃的；Cluster 上各在一条流里。"""
        streams = {self.redis.keys.dead_letter_queue, self.queue_keys.dead_letter}
        return sum([int(await self.redis.lean.execute("XLEN", stream)) for stream in streams])

    async def delayed(self) -> list[bytes]:
        key = self.queue_keys.delayed
        members: list[bytes] = await self.redis.lean.execute("ZRANGE", key, 0, -1)
        return members


def delivery(message: Message, user_ids: Sequence[int], attempt: int = 0) -> Delivery:
    return Delivery(
        message_id=message.message_id,
        tail=encode_tail(message),
        recipient_ids=tuple(user_ids),
        priority=message.priority,
        expires_at=message.expires_at,
        attempt=attempt,
    )
