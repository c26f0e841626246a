"""一条消息顺利时走过的各站：接受 → 入队 → 取出 → 投递 → 确认（推送见 ``edge``）。"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final

from ..accept.drafts import DraftRules
from ..accept.fair_share import FairShares
from ..accept.message_service import MessageService
from ..accept.outbox_relay import TURN_MS, OutboxRelay
from ..deliver.message_publisher import MessagePublisher
from ..deliver.offline_message_queue import OfflineMessageQueue
from ..logs import RepeatedWarning
from ..node_identity import NodeIdentity
from ..outcome.delivery_confirmation_service import DeliveryConfirmationService, Receipts
from ..queue.consumer_pool import ConsumerPool
from ..queue.entries import OnDead
from ..queue.message_consumer import MessageConsumer
from ..queue.message_queue import MessageQueue
from ..redis.claims import Turn
from ..settings import Settings
from ..storage.messages import StoredBodies
from ..supervision import Supervisor
from .bus import Bus
from .record import Record

#: 一个进程里同时做慢的那条的消费者：几个就把 Redis 占满了，此刻的消息每一步都要排在它们后面。
BULK_TASKS: Final = 2


class MessagePath:
    """``on_dead``：队列里做不了的一项交给谁记下。"""

    def __init__(
        self, settings: Settings, node: NodeIdentity, record: Record, bus: Bus, on_dead: OnDead
    ) -> None:
        self._node, self._role = node, settings.role
        self.publisher = MessagePublisher(
            bus.redis, max_bytes=settings.max_content_bytes * 2, clock=bus.clock
        )
        self.queue = MessageQueue(
            bus.redis,
            max_length=settings.queue_max_length,
            starvation_bound=settings.starvation_bound,
            claim_idle_ms=settings.claim_idle_ms,
            max_deliveries=settings.queue_max_deliveries,
            partitions=settings.queue_partitions,
            on_dead=on_dead,
            aside=bus.asides.of("dead-letters"),
            clock=bus.clock,
        )
        bodies = StoredBodies(record.stores.messages)
        self.mailbox = OfflineMessageQueue(bus.redis, bodies, settings, clock=bus.clock)
        self.receipts = Receipts(self.publisher)
        self.confirmation = DeliveryConfirmationService(
            redis=bus.redis,
            recipients=record.recipients,
            reports=record.reports,
            mailbox=self.mailbox,
            receipts=self.receipts,
            flush_ms=settings.ack_flush_ms,
            status_ttl_s=settings.message_ttl_s,
            aside=bus.asides.of("confirm"),
            clock=bus.clock,
        )
        self.relay = OutboxRelay(
            messages=record.stores.messages,
            queue=self.queue,
            mailbox=self.mailbox,
            confirmation=self.confirmation,
            chunk_recipients=settings.queue_chunk_recipients,
            shares=FairShares(settings.fair_share_per_s, settings.fair_share_burst),
            interval_s=settings.relay_interval_s,
            grace_s=settings.relay_grace_s,
            aside=bus.asides.of("outbox"),
            turn=Turn(bus.redis.lean, bus.redis.keys.outbox_turn, TURN_MS),
            clock=bus.clock,
        )
        self.messages = MessageService(
            record.stores,
            rules=DraftRules.from_settings(settings),
            relay=self.relay,
            queue=self.queue,
            mailbox=self.mailbox,
            publisher=self.publisher,
            clock=bus.clock,
        )
        self._bulk_slots = asyncio.Semaphore(BULK_TASKS)
        self.consumers = ConsumerPool(
            partial(self._consumer, settings, bus, RepeatedWarning("consumer_waits")),
            self.queue,
            least=settings.consumer_tasks,
            most=settings.consumer_tasks_max,
            entries_each=settings.consumer_batch_entries,
            stuck_after_s=settings.consumer_stall_s,
        )

    def _consumer(
        self, settings: Settings, bus: Bus, waits: RepeatedWarning, index: int
    ) -> MessageConsumer:
        return MessageConsumer(
            f"{self._node.id}-{index}",
            self.queue,
            self.mailbox,
            batch_entries=settings.consumer_batch_entries,
            block_ms=settings.consumer_block_ms,
            claim_every_ms=settings.claim_idle_ms // 2,
            waits=waits,
            aside=bus.asides.of("consumer"),
            bulk_slots=self._bulk_slots,
            clock=bus.clock,
        )

    def start(self, supervisor: Supervisor) -> None:
        """每个进程都看着发件箱。"""
        supervisor.start("outbox-sweep", self.relay.run_sweep)
        supervisor.start("outbox-fast", self.relay.run_fast)
        supervisor.start("outbox-mark", self.relay.run_mark)
        if self._role.serves_api:
            supervisor.start("queue-room", self.queue.room.run)

    def start_workers(self, supervisor: Supervisor) -> None:
        self.consumers.start(supervisor)
