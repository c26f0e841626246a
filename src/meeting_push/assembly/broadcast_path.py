"""一条广播走过的各站：接受 → 记日志并发布 → 各节点的目录 → 确认。"""

from __future__ import annotations

from ..accept.drafts import DraftRules
from ..broadcast.feed import BroadcastAcks, BroadcastFeed
from ..broadcast.service import BroadcastRelay, BroadcastService
from ..deliver.offline_message_queue import SEQ_EXTRA_TTL_MS
from ..redis.broadcast_log import BroadcastLog
from ..settings import Settings
from ..supervision import Supervisor
from .bus import Bus
from .message_path import MessagePath
from .record import Record


class BroadcastPath:
    def __init__(self, settings: Settings, record: Record, bus: Bus, path: MessagePath) -> None:
        ttl_ms = settings.message_ttl_s * 1000
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
            interval_s=settings.relay_interval_s,
            aside=bus.asides.of("broadcast-outbox"),
            clock=bus.clock,
        )
        self.service = BroadcastService(
            database=record.database,
            record=record.broadcasts,
            idempotency=record.stores.idempotency,
            rules=DraftRules.from_settings(settings),
            relay=self.relay,
            clock=bus.clock,
        )
        self.feed = BroadcastFeed(log, path.mailbox, bus.reread.set, clock=bus.clock)
        #: 网关收到的确认先到这里：不是广播的原样交给私信的。
        self.acks = BroadcastAcks(
            path.confirmation,
            self.feed,
            log,
            record.broadcasts,
            flush_ms=settings.ack_flush_ms,
            aside=bus.asides.of("broadcast-confirm"),
        )

    def start(self, supervisor: Supervisor) -> None:
        supervisor.start("broadcast-relay", self.relay.run)
