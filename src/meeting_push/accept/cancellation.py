"""撤回预约的消息：到时之前都可以。"""

from __future__ import annotations

from typing import Final

from ..clock import Clock, now_ms
from ..errors import AlreadyDueError
from ..model import Message
from ..queue.message_queue import MessageQueue
from ..storage.database import Database
from ..storage.messages import cancel

#: 离到时不足这么久就算到了：撤回的记号要抢在到期的那一刻之前落下。
GUARD_MS: Final = 1_000


class Cancellation:
    """收件人的状态成为 failed、原因 ``cancelled``（contract 的四种状态之内）。"""

    def __init__(self, database: Database, queue: MessageQueue, clock: Clock = now_ms) -> None:
        self._database = database
        self._queue = queue
        self._clock = clock

    async def cancel(self, message: Message) -> None:
        """先在 Redis 里留下记号并移出延迟队列，再提交：提交了就一定不会送出。

        提交不成（数据库断开），收件人仍 pending，而到期的条目会凭记号被丢弃：掉队检查把它放回。
        幂等。

        :raises AlreadyDueError: 不是预约的，或已经到时
        :raises UnavailableError: Redis 或数据库不在；没有撤回
        """
        now = self._clock()
        async with self._database.transaction() as connection:
            if not await cancel(connection, message.message_id, now, now + GUARD_MS):
                raise AlreadyDueError("the message is due already")
            assert message.deliver_at is not None
            await self._queue.unschedule(message.message_id, message.deliver_at)
