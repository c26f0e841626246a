"""Redis 丢了数据之后：对账，从记录重新投递。"""

from __future__ import annotations

from ..node_identity import NodeIdentity
from ..redis.generation import GenerationMark
from ..services.broadcast_recovery import BroadcastRecovery
from ..services.reconciler import Reconciler, ReconcilerRules
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
        self.reconciler = Reconciler(
            node,
            mark=GenerationMark(bus.redis.lean, bus.redis.keys),
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
            on_generation=bus.reread.set,  # 每条连接都要知道新的 epoch
            clock=bus.clock,
        )

    def start(self, supervisor: Supervisor) -> None:
        """每个进程都可能轮到：租约在谁手里，谁做。"""
        supervisor.start("reconciler", self.reconciler.run)
