"""只写发件箱的一半：一个线程里的事件循环，接受的几站，与叫醒别人的铃；没有送信的循环。"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, Final, TypeVar, cast

from .accept.drafts import DraftRules
from .accept.message_service import MessageService
from .accept.outbox_relay import Hurry, OutboxRelay
from .assembly.ground import Bus, Record
from .assembly.message_path import MessagePath
from .contracts import UserDirectory
from .model import Accepted, Draft, Outgoing, QueueEntry, Sender
from .node_identity import NodeIdentity
from .settings import Settings

#: 一次调用至多等这么久：数据库、Redis 各有自己的期限，这是最后的。
_LIMIT_S: Final = 60
T = TypeVar("T")


class _Unsent:
    """代替 ``OutboxRelay``：交来的留在 SQL 里，由别的进程送。"""

    loop = None

    def check_share(self, _sender_id: int) -> None:
        return

    async def catch_up(self, *_: object) -> bool:
        return False

    def submit(self, _outgoing: Iterable[Outgoing]) -> None:
        return

    def hurry_from_anywhere(self) -> None:
        return


class OutboxOffice:
    """构造时起线程，``close`` 停下；方法可以从几个线程里调用。"""

    def __init__(self, settings: Settings, directory: UserDirectory | None) -> None:
        # 同 ``MeetingPush``：没有说的，人归应用
        settings = settings.changed(identity=settings.auth.identity or "application")
        self._record = Record(settings, directory)
        self._bus = Bus(settings, self._record.database)
        path = MessagePath(settings, NodeIdentity(), self._record, self._bus, _no_dead)
        self.messages = MessageService(
            self._record.stores,
            rules=DraftRules(settings.messages),
            relay=cast(OutboxRelay, _Unsent()),
            queue=path.queue,
            mailbox=path.mailbox,
            publisher=path.publisher,
            people=self._record.people,
            clock=self._bus.clock,
        )
        self._connected = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="meeting-push-outbox", daemon=True
        )
        self._thread.start()

    def send(
        self, sender: Sender, drafts: Sequence[Draft], idempotency_key: str | None
    ) -> list[Accepted]:
        return self._wait(self.messages.send_batch(sender, drafts, idempotency_key))

    def ring(self) -> None:
        """:raises RedisUnavailableError: 没有叫醒谁"""
        self._wait(self._ring())

    def close(self) -> None:
        self._wait(self._leave())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_LIMIT_S)

    async def _ring(self) -> None:
        if not self._connected:
            await self._bus.redis.start()
            self._connected = True
        await self._bus.control.publish(Hurry())

    async def _leave(self) -> None:
        await self._bus.redis.close()
        await self._record.database.dispose()
        await self._loop.shutdown_default_executor()


async def _no_dead(_entry: QueueEntry, _reason: str) -> None:
    raise AssertionError("nothing is taken from the queue here")
