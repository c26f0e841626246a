"""成组提交：同时到来的接受共用一个事务，有没有幂等键都一样。

一次提交的代价（加锁、落盘、线程往返）与写一条几乎一样，其后的每一站也是一组一次的往返。前一个事务
在提交时新来的就排着，下一个事务把它们一起带走；刚才同来过几个，就再等一等（``_gather``）。独自一个
一条接一条地发，闲了一会儿之后的头一个，从不等。
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from contextvars import Context
from dataclasses import dataclass, field
from typing import Final

from ..model import Outgoing
from ..supervision import is_temporary
from .idempotency import Claim, IdempotencyRepository
from .messages import MessageRepository
from .rows import StoredResponse

#: 一组至多这么多行收件人：事务太长会让别的写者久等。
MAX_ROWS: Final = 5_000
#: 两次提交的开始至少隔这么久（秒），除非最近几组里最大的那么多个都到齐了。
PACE_S: Final = 0.006
_REMEMBERED: Final = 4
#: 排着这么多行，不必再凑。
ENOUGH_ROWS: Final = 200


@dataclass(slots=True, eq=False)
class _Waiting:
    """``done``：None = 写下了，否则是同一个键第一次的回答。"""

    outgoing: Sequence[Outgoing]
    rows: int
    done: asyncio.Future[StoredResponse | None]
    claim: Claim | None = None
    #: 同一组里同一个键的后来者：随它一起有结果。
    followers: list[_Waiting] = field(default_factory=list)

    def settle(self, earlier: StoredResponse | None) -> None:
        if not self.done.done():
            self.done.set_result(earlier)
        for each in self.followers:
            assert self.claim is not None, "only a key is followed"
            each.settle(earlier or self.claim.stored)

    def fail(self, error: BaseException) -> None:
        for each in (self, *self.followers):
            if not each.done.done():
                each.done.set_exception(error)


class AcceptBatch:
    """``insert`` 返回即已提交；一个进程一个。``keys`` 不给则不认幂等键。"""

    def __init__(
        self, messages: MessageRepository, keys: IdempotencyRepository | None = None
    ) -> None:
        self._messages = messages
        self._keys = keys
        self._queue: list[_Waiting] = []
        self._writer: asyncio.Task[None] | None = None
        self._gave_way = False
        #: 最近几组各几个请求；上一组何时开始提交。
        self._sizes: deque[int] = deque([1], maxlen=_REMEMBERED)
        self._began = 0.0
        self._rows = 0
        self._gathered: asyncio.Future[None] | None = None

    async def insert(
        self, outgoing: Sequence[Outgoing], claim: Claim | None = None
    ) -> StoredResponse | None:
        """原子：``outgoing`` 全部写下，连同占下 ``claim``，返回 None；或一条都不。

        键已被占则什么都不写，返回占着它的那次请求的回答。
        被取消时结果不定（可能已提交），与单独的事务一样。

        :raises InvalidInputError: 有存不下的值；只影响这一次调用
        :raises OutcomeUnknownError: 可能已提交
        :raises DatabaseUnavailableError: 没有提交
        """
        rows = 0
        for one in outgoing:
            rows += len(one.recipient_ids)
        waiting = _Waiting(outgoing, rows, asyncio.get_running_loop().create_future(), claim)
        self._queue.append(waiting)
        self._rows += rows
        if self._gathered is not None and self._enough():
            _done(self._gathered)
        if self._writer is None:
            self._writer = asyncio.create_task(
                self._write(), name="accept-batch", context=Context()
            )
        return await waiting.done

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._queue:
                if not self._enough():
                    await self._gather()
                self._began = loop.time()
                taken = self._take()
                self._sizes.append(len(taken))
                self._rows -= sum(waiting.rows for waiting in taken)
                await self._commit(_led(taken))
        except BaseException as error:
            _fail(self._take_all(), error)  # 不能让排着的永远等下去
            raise
        finally:
            self._writer = None

    def _enough(self) -> bool:
        return len(self._queue) >= max(self._sizes) or self._rows >= ENOUGH_ROWS

    async def _gather(self) -> None:
        """等到够了，或离上一组开始满 ``PACE_S``。

        每秒 500 条时一组一两条变成三条，每条的 CPU 少三分之一，送到的 P50 不变：排队少了。
        """
        loop = asyncio.get_running_loop()
        if (wait_s := self._began + PACE_S - loop.time()) > 0:
            self._gathered = loop.create_future()
            timer = loop.call_later(wait_s, _done, self._gathered)
            try:
                await self._gathered
            finally:
                timer.cancel()
                self._gathered = None

    def _take_all(self) -> list[_Waiting]:
        taken, self._queue, self._rows = self._queue, [], 0
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
            written = await self._store(group)
        except Exception as error:  # noqa: BLE001 — 交给等着的人
            if is_temporary(error):
                _fail(group, error)
            elif len(group) == 1:
                # 存不下的是它的内容：同一个键的后来者是另一个请求，自己再来
                self._queue += group[0].followers
                self._rows += sum(each.rows for each in group[0].followers)
                group[0].followers.clear()
                _fail(group, error)
            else:
                # 一条存不下的不该连累同组的：对半再来（抛出即什么都没有写）
                middle = len(group) // 2
                await self._commit(group[:middle])
                await self._commit(group[middle:])
        except BaseException as error:
            _fail(group, error)
            raise
        else:
            for waiting in written:
                waiting.settle(None)

    async def _store(self, group: Sequence[_Waiting]) -> Sequence[_Waiting]:
        """写下 ``group`` 里键还没有被占的，返回它们；别的已得到当时的回答。"""
        while group:
            items = [one for waiting in group for one in waiting.outgoing]
            claims = [waiting.claim for waiting in group if waiting.claim is not None]
            if not claims:
                await self._messages.store(items)
                return group
            if await self._messages.store(items, claims):
                return group
            group = await self._unanswered(group, claims)
        return group

    async def _unanswered(
        self, group: Sequence[_Waiting], claims: Sequence[Claim]
    ) -> list[_Waiting]:
        assert self._keys is not None, "claims come with the keys"
        earlier = await self._keys.answers([each.place for each in claims])
        left: list[_Waiting] = []
        for waiting in group:
            known = earlier.get(waiting.claim.place) if waiting.claim is not None else None
            if known is None:
                left.append(waiting)
            else:
                waiting.settle(known)
        return left


def _done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _led(group: Sequence[_Waiting]) -> list[_Waiting]:
    """同一个键只有头一个写，别的跟着它。"""
    leaders: dict[tuple[int, str], _Waiting] = {}
    led: list[_Waiting] = []
    for waiting in group:
        leader = (
            waiting if waiting.claim is None else leaders.setdefault(waiting.claim.place, waiting)
        )
        if leader is waiting:
            led.append(waiting)
        else:
            leader.followers.append(waiting)
    return led


def _fail(group: Sequence[_Waiting], error: BaseException) -> None:
    for waiting in group:
        waiting.fail(error)
