"""一条消息顺利时走过的各站：接受 → 入队 → 取出 → 投递 → 确认（推送见 ``edge``）。

没有那么顺利的：重试、失败、死信、过期、被挤出信箱。

一条广播走过的各站：接受 → 记日志并发布 → 各节点的目录 → 确认。

Redis 丢了数据之后：对账，从记录重新投递。抹掉一个人：谁都可以来要（路由、应用），由一个循环做完。
"""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import Final

from ..accept.direct_delivery import DirectDelivery
from ..accept.drafts import DraftRules
from ..accept.idempotency import IdempotencyPurge
from ..accept.message_service import MessageService
from ..accept.outbox_relay import TURN_MS, Hurry, OutboxRelay
from ..broadcast.feed import BroadcastAcks, BroadcastFeed
from ..broadcast.service import BroadcastRelay, BroadcastService
from ..deliver.message_publisher import MessagePublisher
from ..deliver.offline_message_queue import SEQ_EXTRA_TTL_MS, OfflineMessageQueue
from ..errors import AlreadyDueError, NotFoundError
from ..limits.send_limits import FairShares
from ..logs import RepeatedWarning
from ..model import ADMIN_ROLE, Principal, QueueEntry
from ..node_identity import NodeIdentity
from ..outcome.dead_letters import DeadLetters, DeliveryFailures
from ..outcome.delivery_confirmation_service import DeliveryConfirmationService, Receipts
from ..outcome.expiry_sweeper import ExpirySweeper
from ..outcome.mailbox_evictor import MailboxEvictor
from ..outcome.retention import Retention
from ..outcome.retry_service import RetryService
from ..people.erasure import Eraser, Erasures
from ..queue.consumer_pool import ConsumerPool
from ..queue.message_consumer import MessageConsumer
from ..queue.message_queue import MessageQueue
from ..queue.queue_reader import OnDead
from ..recovery.broadcasts import BroadcastRecovery
from ..recovery.database_claim import DatabaseClaim
from ..recovery.reconciler import Reconciler, ReconcilerRules
from ..redis.broadcast_log import BroadcastLog
from ..redis.claims import GenerationMark, RedisClaim, Turn
from ..redis.outcomes import Outcomes
from ..redis.person_traces import PersonTraces
from ..settings import QueueSettings, Settings
from ..storage.archive import ArchiveRepository
from ..storage.erasures import ErasureRepository, PersonRows
from ..storage.messages import StoredBodies
from ..storage.retention import RetentionRepository
from ..supervision import Supervisor
from .ground import Access, Bus, Record

#: 一个进程里同时做慢的那条的消费者：几个就把 Redis 占满了，此刻的消息每一步都要排在它们后面。
BULK_TASKS: Final = 2


class MessagePath:
    """``on_dead``：队列里做不了的一项交给谁记下。"""

    def __init__(
        self, settings: Settings, node: NodeIdentity, record: Record, bus: Bus, on_dead: OnDead
    ) -> None:
        self._node, self._role = node, settings.process.role
        self._gone = record.gone
        self.publisher = MessagePublisher(
            bus.redis, max_bytes=settings.messages.max_content_bytes * 2, clock=bus.clock
        )
        self.queue = MessageQueue(
            bus.redis,
            max_length=settings.queue.max_length,
            starvation_bound=settings.queue.starvation_bound,
            claim_idle_ms=settings.queue.claim_idle_ms,
            max_deliveries=settings.queue.max_deliveries,
            partitions=settings.queue.partitions,
            on_dead=on_dead,
            aside=bus.asides.of("dead-letters"),
            clock=bus.clock,
        )
        bodies = StoredBodies(record.stores.messages)
        self.mailbox = OfflineMessageQueue(
            bus.redis, bodies, settings.messages, recorder=bus.recorder, clock=bus.clock
        )
        self.receipts = Receipts(self.publisher, record.people)
        self.outcomes = Outcomes(
            bus.redis.lean,
            bus.redis.keys,
            settings.messages.ttl_s * 1000,
            self.queue.partitions,
        )
        self.confirmation = DeliveryConfirmationService(
            outcomes=self.outcomes,
            recipients=record.recipients,
            reports=record.reports,
            mailbox=self.mailbox,
            receipts=self.receipts,
            flush_ms=settings.delivery.ack_flush_ms,
            aside=bus.asides.of("confirm"),
            clock=bus.clock,
        )
        self.direct = DirectDelivery(
            self.mailbox,
            self.queue,
            most_recipients=settings.queue.direct_recipients,
            aside=bus.asides.of("outbox"),
            recorder=bus.recorder,
        )
        self.relay = OutboxRelay(
            messages=record.stores.messages,
            queue=self.queue,
            mailbox=self.mailbox,
            chunk_recipients=settings.queue.chunk_recipients,
            shares=FairShares(settings.queue.fair_share_per_s, settings.queue.fair_share_burst),
            interval_s=settings.delivery.relay_interval_s,
            grace_s=settings.delivery.relay_grace_s,
            aside=bus.asides.of("outbox"),
            turn=Turn(bus.redis.lean, bus.redis.keys.outbox_turn, TURN_MS),
            direct=self.direct if settings.queue.direct_recipients else None,
            recorder=bus.recorder,
            clock=bus.clock,
        )
        bus.control.on(Hurry, lambda _command: self.relay.hurry())
        self.messages = MessageService(
            record.stores,
            rules=DraftRules(settings.messages),
            relay=self.relay,
            queue=self.queue,
            mailbox=self.mailbox,
            publisher=self.publisher,
            recorder=bus.recorder,
            people=record.people,
            clock=bus.clock,
        )
        self._bulk_slots = asyncio.Semaphore(BULK_TASKS)
        self.consumers = ConsumerPool(
            partial(self._consumer, settings.queue, bus, RepeatedWarning("consumer_waits")),
            self.queue,
            least=settings.queue.consumer_tasks,
            most=settings.queue.consumer_tasks_max,
            entries_each=settings.queue.consumer_batch_entries,
            stuck_after_s=settings.queue.consumer_stall_s,
        )

    def _consumer(
        self, settings: QueueSettings, bus: Bus, waits: RepeatedWarning, index: int
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
            gone=self._gone,
            recorder=bus.recorder,
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


class OutcomePath:
    def __init__(
        self,
        settings: Settings,
        node: NodeIdentity,
        *,
        record: Record,
        bus: Bus,
        path: MessagePath,
    ) -> None:
        redis, outcomes = bus.redis, path.outcomes
        self.failures = DeliveryFailures(
            outcomes=outcomes,
            record=record.outcomes,
            recipients=record.recipients,
            mailbox=path.mailbox,
            receipts=path.receipts,
            clock=bus.clock,
        )
        self.retries = RetryService(
            outcomes=outcomes,
            record=record.outcomes,
            failures=self.failures,
            max_attempts=len(settings.delivery.retry_delays_s),
            aside=bus.asides.of("retry"),
            recorder=bus.recorder,
            clock=bus.clock,
        )
        self.dead_letters = DeadLetters(
            redis,
            self.failures,
            streams=[keys.dead_letter for keys in path.queue.partitions],
        )
        self.expiry = ExpirySweeper(
            redis=redis,
            outcomes=outcomes,
            record=record.outcomes,
            dead_letters=self.dead_letters,
            receipts=path.receipts,
            interval_s=settings.delivery.expiry_interval_s,
            agreed=bus.clock.agreed,
            aside=bus.asides.of("expiry"),
        )
        self.idempotency = IdempotencyPurge(record.stores.idempotency, bus.clock.agreed)
        self.retention = Retention(
            settings.retention,
            node,
            RetentionRepository(record.database),
            ArchiveRepository(record.database),
            bus.clock.agreed,
        )
        self.evictions = MailboxEvictor(
            path.mailbox, record.outcomes, self.failures.fail, bus.asides.of("evictions")
        )

    async def record_dead(self, entry: QueueEntry, reason: str) -> None:
        """队列里做不了的一项：收件人记为失败；死信由队列自己写，整项一封。"""
        pairs = [(entry.message_id, user_id) for user_id in entry.recipient_ids]
        await self.failures.fail(pairs, reason, letters=False)

    def start(self, supervisor: Supervisor) -> None:
        """不只工人投递：``send_realtime_message`` 就在 API 进程里。"""
        supervisor.start("evictions", self.evictions.run)

    def start_workers(self, supervisor: Supervisor) -> None:
        supervisor.start("expiry-sweep", self.expiry.run)
        supervisor.start("idempotency-purge", self.idempotency.run)
        supervisor.start("retention", self.retention.run)


class BroadcastPath:
    def __init__(self, settings: Settings, record: Record, bus: Bus, path: MessagePath) -> None:
        ttl_ms = settings.messages.ttl_s * 1000
        log = self.log = BroadcastLog(
            bus.redis.lean,
            bus.redis.keys,
            log_ttl_ms=ttl_ms,
            cursor_ttl_ms=ttl_ms + SEQ_EXTRA_TTL_MS,
            aside=bus.asides.of("broadcast-cursors"),
        )
        self.relay = BroadcastRelay(
            record.broadcasts,
            log,
            path.mailbox,
            interval_s=settings.delivery.relay_interval_s,
            aside=bus.asides.of("broadcast-outbox"),
            clock=bus.clock,
        )
        self.service = BroadcastService(
            database=record.database,
            record=record.broadcasts,
            idempotency=record.stores.idempotency,
            rules=DraftRules(settings.messages),
            relay=self.relay,
            check_open=path.queue.room.check_open,
            people=record.people,
            clock=bus.clock,
        )
        self.feed = BroadcastFeed(log, path.mailbox, bus.reread.set, clock=bus.clock)
        #: 网关收到的确认先到这里：不是广播的原样交给私信的。
        self.acks = BroadcastAcks(
            path.confirmation,
            self.feed,
            log,
            record.broadcasts,
            flush_ms=settings.delivery.ack_flush_ms,
            aside=bus.asides.of("broadcast-confirm"),
        )

    def start(self, supervisor: Supervisor) -> None:
        supervisor.start("broadcast-relay", self.relay.run)


class Recovery:
    def __init__(
        self,
        settings: Settings,
        node: NodeIdentity,
        *,
        record: Record,
        bus: Bus,
        messages: MessagePath,
        broadcasts: BroadcastPath,
    ) -> None:
        lean, keys = bus.redis.lean, bus.redis.keys
        self.claim = DatabaseClaim(
            node, RedisClaim(lean, keys), record.generations, settings.presence.node_lease_s
        )
        self.reconciler = Reconciler(
            node,
            mark=GenerationMark(lean, keys),
            generations=record.generations,
            undelivered=record.undelivered,
            queue=messages.queue,
            mailbox=messages.mailbox,
            relay=messages.relay,
            broadcasts=BroadcastRecovery(
                record.broadcasts, broadcasts.log, broadcasts.relay, clock=bus.clock
            ),
            rules=ReconcilerRules(
                settings.delivery.reconcile_interval_s,
                settings.delivery.straggler_interval_s,
                int(settings.delivery.straggler_after_s * 1000),
            ),
            ours=lambda: not self.claim.lost.is_set(),
            on_generation=bus.reread.set,  # 每条连接都要知道新的 epoch
            clock=bus.clock,
        )

    async def claim_redis(self, stack: contextlib.AsyncExitStack) -> None:
        """占住 Redis，再知道代次：在任何东西碰它之前。

        :raises UnavailableError: 它服务着另一个数据库；或 Redis、数据库不在
        """
        stack.push_async_callback(self.claim.stop)
        await self.claim.start()
        await self.reconciler.prepare(self.claim.database_id)

    def start(self, supervisor: Supervisor) -> None:
        """每个进程都可能轮到：租约在谁手里，谁做。"""
        supervisor.start("database-claim", self.claim.run)
        supervisor.start("reconciler", self.reconciler.run)


#: 撤回抹掉的人预约的：我们自己。
_OURSELVES: Final = Principal(0, ADMIN_ROLE, 0, 0)


class Erasing:
    def __init__(
        self, settings: Settings, record: Record, bus: Bus, access: Access, path: MessagePath
    ) -> None:
        self._messages = path.messages
        jobs = ErasureRepository(record.database)
        self.erasures = Erasures(
            jobs, access.revocations.banish, accounts=settings.auth.owns_accounts
        )
        self.eraser = Eraser(
            jobs,
            PersonRows(record.database),
            PersonTraces(bus.redis.lean, bus.redis.keys, path.queue.partitions),
            cancel=self._cancel,
            news=self.erasures.news,
            aside=bus.asides.of("erasure"),
            clock=bus.clock,
        )

    async def _cancel(self, message_id: str) -> None:
        with contextlib.suppress(AlreadyDueError, NotFoundError):
            await self._messages.cancel_message(message_id, _OURSELVES)

    def start(self, supervisor: Supervisor) -> None:
        """每个进程都可能轮到：租约在谁手里，谁做。"""
        supervisor.start("erasure", self.eraser.run)
