"""抹掉一个人：谁都可以来要（路由、应用），由一个循环做完。"""

from __future__ import annotations

import contextlib
from typing import Final

from ..errors import AlreadyDueError, NotFoundError
from ..model import ADMIN_ROLE, Principal
from ..people.erasure import Eraser, Erasures
from ..redis.person_traces import PersonTraces
from ..settings import Settings
from ..storage.erasures import ErasureRepository, PersonRows
from ..supervision import Supervisor
from .ground import Access, Bus, Record
from .message_path import MessagePath

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
