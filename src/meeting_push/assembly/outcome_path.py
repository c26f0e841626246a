"""没有那么顺利的：重试、失败、死信、过期、被挤出信箱。"""

from __future__ import annotations

from ..accept.idempotency import IdempotencyPurge
from ..model import QueueEntry
from ..node_identity import NodeIdentity
from ..outcome.dead_letters import DeadLetters, DeliveryFailures
from ..outcome.expiry_sweeper import ExpirySweeper
from ..outcome.mailbox_evictor import MailboxEvictor
from ..outcome.retry_service import RetryService
from ..redis.outcomes import Outcomes
from ..settings import Settings
from ..supervision import Supervisor
from .bus import Bus
from .message_path import MessagePath
from .record import Record


class OutcomePath:
    def __init__(
        self, settings: Settings, node: NodeIdentity, record: Record, bus: Bus, path: MessagePath
    ) -> None:
        redis = bus.redis
        outcomes = Outcomes(redis.lean, redis.keys, settings.message_ttl_s * 1000)
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
            max_attempts=len(settings.retry_delays_s),
            aside=bus.asides.of("retry"),
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
            node=node,
            interval_s=settings.expiry_interval_s,
            agreed=bus.clock.agreed,
            aside=bus.asides.of("expiry"),
        )
        self.idempotency = IdempotencyPurge(record.stores.idempotency, bus.clock.agreed)
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
