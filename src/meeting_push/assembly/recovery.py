"""Redis 丢了数据之后：对账，从记录重新投递。"""

from __future__ import annotations

import contextlib

from ..node_identity import NodeIdentity
from ..recovery.broadcasts import BroadcastRecovery
from ..recovery.database_claim import DatabaseClaim
from ..recovery.reconciler import Reconciler, ReconcilerRules
from ..redis.claims import GenerationMark, RedisClaim
from ..settings import Settings
from ..supervision import Supervisor
from .broadcast_path import BroadcastPath
from .bus import Bus
from .message_path import MessagePath
from .record import Record


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
            node, RedisClaim(lean, keys), record.generations, settings.node_lease_s
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
                settings.reconcile_interval_s,
                settings.straggler_interval_s,
                int(settings.straggler_after_s * 1000),
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
