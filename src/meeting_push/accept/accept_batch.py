"""成组提交：同时到来的接受共用一个 SQL 事务。

一次提交的代价（加锁、落盘、线程往返）与写一条几乎一样。前一个事务在提交时新来的就排着，
下一个事务把它们一起带走：没有人为的等待，越忙每组越大。

撤回预约的消息：到时之前都可以。
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ..clock import Clock, now_ms
from ..errors import AlreadyDueError
from ..model import Message, Outgoing
from ..queue.message_queue import MessageQueue
from ..storage.database import Database
from ..storage.messages import MessageRepository, cancel
from ..supervision import is_temporary

#: 一组至多这么多行收件人：事务太长会让别的写者久等。
MAX_ROWS: Final = 5_000


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    outgoing: Sequence[Outgoing]
    rows: int
    done: asyncio.Future[None]


class AcceptBatch:
    """``insert`` 返回即已提交。"""

    def __init__(self, messages: MessageRepository) -> None:
        self._messages = messages
        self._queue: list[_Waiting] = []
        self._writer: asyncio.Task[None] | None = None
        self._gave_way = False

    async def insert(self, outgoing: Sequence[Outgoing]) -> None:
        """原子：``outgoing`` 全部写下，或一条都不。

        被取消时结果不定（可能已提交），与单独的事务一样。

        :raises InvalidInputError: 有存不下的值；只影响这一次调用
        :raises OutcomeUnknownError: 可能已提交
        :raises DatabaseUnavailableError: 没有提交
        """
        rows = sum(len(one.recipient_ids) for one in outgoing)
        waiting = _Waiting(outgoing, rows, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        if self._writer is None:
            self._writer = asyncio.create_task(self._write(), name="accept-batch")
        await waiting.done

    async def _write(self) -> None:
        try:
            while self._queue:
                await self._commit(self._take())
        except BaseException as error:
            _fail(self._take_all(), error)  # 不能让排着的永远等下去
            raise
        finally:
            self._writer = None

    def _take_all(self) -> list[_Waiting]:
        taken, self._queue = self._queue, []
        return taken

    def _take(self) -> list[_Waiting]:
        if small := self._small():
            return small
        rows = count = 0
        for waiting in self._queue:
            if count and rows + waiting.rows > MAX_ROWS:
                break
            rows += waiting.rows
            count += 1
        taken = self._queue[:count]
        del self._queue[:count]
        return taken

    def _small(self) -> list[_Waiting]:
        """轮到一个很大的，先让别的：两个大的之间，小的总有一次（LESSONS 34）。"""
        if self._gave_way or not self._queue or self._queue[0].rows <= MAX_ROWS:
            self._gave_way = False
            return []
        self._gave_way = True
        small: list[_Waiting] = []
        rows = 0
        for waiting in self._queue:
            if waiting.rows <= MAX_ROWS - rows:
                small.append(waiting)
                rows += waiting.rows
        self._queue = [waiting for waiting in self._queue if waiting not in small]
        return small

    async def _commit(self, group: Sequence[_Waiting]) -> None:
        try:
            await self._messages.store([one for w in group for one in w.outgoing])
        except Exception as error:  # noqa: BLE001 — 交给等着的人
            if is_temporary(error) or len(group) == 1:
                _fail(group, error)
                return
            # 一条存不下的不该连累同组的：对半再来（抛出即什么都没有写）
            middle = len(group) // 2
            await self._commit(group[:middle])
            await self._commit(group[middle:])
        except BaseException as error:
            _fail(group, error)
            raise
        else:
            for waiting in group:
                if not waiting.done.done():
                    waiting.done.set_result(None)


def _fail(group: Sequence[_Waiting], error: BaseException) -> None:
    for waiting in group:
        if not waiting.done.done():
            waiting.done.set_exception(error)


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
