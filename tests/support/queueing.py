"""队列、消费者与轮次：测试不关心的同伴在这里给。"""

from __future__ import annotations

import asyncio
from typing import Any

from meeting_push.accept.outbox_relay import TURN_MS
from meeting_push.deliver.offline_message_queue import OfflineMessageQueue
from meeting_push.logs import RepeatedWarning
from meeting_push.model import QueueEntry
from meeting_push.queue.message_consumer import MessageConsumer
from meeting_push.queue.message_queue import MessageQueue
from meeting_push.queue.queue_reader import OnDead
from meeting_push.redis.claims import Turn
from meeting_push.redis.redis_service import RedisService
from meeting_push.supervision import Aside


async def unrecorded(entry: QueueEntry, reason: str) -> None:
    """没有记录可写。"""


def message_queue(
    redis: RedisService, *, on_dead: OnDead = unrecorded, **rules: Any
) -> MessageQueue:
    return MessageQueue(redis, on_dead=on_dead, aside=Aside("dead-letters"), **rules)


def message_consumer(
    name: str,
    queue: MessageQueue,
    mailbox: OfflineMessageQueue,
    *,
    bulk_slots: asyncio.Semaphore | None = None,
    **rules: Any,
) -> MessageConsumer:
    return MessageConsumer(
        name,
        queue,
        mailbox,
        waits=RepeatedWarning("consumer_waits"),
        aside=Aside("consumer"),
        bulk_slots=bulk_slots or asyncio.Semaphore(1),
        **rules,
    )


def outbox_turn(redis: RedisService) -> Turn:
    return Turn(redis.lean, redis.keys.outbox_turn, TURN_MS)
