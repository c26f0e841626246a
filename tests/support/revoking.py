"""吊销：没有别的节点在听。"""

from __future__ import annotations

from meeting_push.auth.revocations import Revocations
from meeting_push.clock import Clock, now_ms
from meeting_push.node.control_channel import ControlCommand
from meeting_push.settings import AuthSettings
from meeting_push.storage.database import Database
from meeting_push.supervision import Aside


def revocations_of(
    settings: AuthSettings, database: Database, clock: Clock = now_ms
) -> Revocations:
    return Revocations(
        settings, database, publish=_unheard, aside=Aside("revocations"), clock=clock
    )


async def _unheard(command: ControlCommand) -> int:
    return 0
