"""撤回：没到时的从此不送；送了的，正文没有了，有它的设备各得一帧 ``withdrawn``。"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from ..clock import Clock
from ..deliver.offline_message_queue import OfflineMessageQueue
from ..errors import AlreadyDueError
from ..logs import logger
from ..model import Message
from ..protocol.envelope import encode_tail
from ..queue.message_queue import MessageQueue
from ..storage.database import Database
from ..storage.recipients import WithdrawalRepository, cancel

#: 离到时不足这么久就算到了：撤回的记号要抢在到期的那一刻之前落下。
CANCEL_GUARD_MS: Final = 1_000


class Withdrawal:
    def __init__(
        self, database: Database, queue: MessageQueue, mailbox: OfflineMessageQueue, clock: Clock
    ) -> None:
        self._database = database
        self._record = WithdrawalRepository(database)
        self._queue = queue
        self._mailbox = mailbox
        self._clock = clock
        #: 撤回了几条送了的，只增。
        self.withdrawn = 0

    async def withdraw(self, message: Message) -> int:
        """返回到时之前撤回了的收件人数。幂等。

        :raises AlreadyDueError: 发给所有人的
        :raises UnavailableError: Redis 或数据库不在；再来一次
        """
        if message.withdrawn_at is not None:
            return 0
        cancelled = await self._cancel(message)
        if cancelled is None:
            await self._withdraw(message)
        return cancelled or 0

    async def _cancel(self, message: Message) -> int | None:
        """先在 Redis 里留下记号并移出延迟队列，再提交：提交了就一定不会送出。

        提交不成（数据库断开），收件人仍 pending，而到期的条目会凭记号被丢弃：掉队检查把它放回。
        None：不是预约的，或到时了。
        """
        now = self._clock()
        if message.deliver_at is None:
            return None
        if message.expires_at <= message.deliver_at:
            return 0  # 没到时就撤回了，见 ``cancel``
        if message.deliver_at <= now + CANCEL_GUARD_MS:
            return None
        async with self._database.transaction() as connection:
            cancelled = await cancel(
                connection,
                self._database.events,
                message.message_id,
                now=now,
                due_after=now + CANCEL_GUARD_MS,
            )
            if cancelled is not None:
                await self._queue.unschedule(message.message_id, message.deliver_at)
        return cancelled

    async def _withdraw(self, message: Message) -> None:
        """先 Redis，后 SQL：死在两者之间，再撤一次就是了；途中的投递在日志里认出它。"""
        message_id, now = message.message_id, self._clock()
        users = await self._record.recipients(message_id)
        if not users:
            raise AlreadyDueError("what was sent to everybody can not be withdrawn")
        tail = encode_tail(replace(message, withdrawn_at=now))
        until = max(message.expires_at, now + self._mailbox.ttl_ms)
        body = (message_id, tail, message.priority, until)
        await self._mailbox.replace_body(body)
        overfull = await self._mailbox.withdrawals.withdraw(message_id, tail, users)
        if overfull:
            self._mailbox.overflow.note(overfull)
        ended = await self._record.withdraw(message_id, now)
        if ended is None:
            return
        await self._mailbox.replace_body(body)  # 途中的投递也许又存了原来的
        await self._mailbox.withdrawals.record(message_id, ended, now)
        self.withdrawn += 1
        logger.bind(message_id=message_id, recipients=len(users), pending=len(ended)).info(
            "message_withdrawn"
        )
