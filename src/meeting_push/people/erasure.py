"""抹掉一个人：当场拦在门外，随后一遍一遍地去掉两边关于他的一切（决定 0015）。

记下的那一刻（一个事务）：账号、密码、刷新令牌没有了，他的号永远作废（``Revocation.is_erasure``），
活记在 SQL。各进程两秒之内知道：连接以 4502 关闭，发给他的是不认识的人，队列里给他的不投递。

其余由一个循环做完，一遍从头到尾，每一步幂等：做到一半进程死了，租约到期别人从头再来。先动 SQL
里的正文，再删 Redis 里的，最后才忘掉那一条是他的：死在哪里都找得回来。几遍之间隔得越来越久，
那一刻还在路上的（别的进程手里的一批、应用没有提交的事务）留下的，由后一遍收掉。
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

from ulid import ULID

from ..clock import Clock, now_ms
from ..errors import NotFoundError
from ..logs import RepeatedWarning, logger
from ..redis.person_traces import PersonTraces
from ..storage.database import SqlConnection
from ..storage.erasures import BATCH, Erasure, ErasureRepository, PersonRows, Written
from ..supervision import Aside, periodically, summoned

#: 各遍在记下之后多久：连接都关了；路上的都到了；慢的、被暂停过的进程；没有提交的事务。
PASSES_MS: Final = (3_000, 20_000, 600_000, 86_400_000)
#: 用户名只留到这一遍：一分钟之内。
_NAME_PASSES: Final = 2
#: 后面的遍只看这么久以前起写的：更早的前面看过了。
_MARGIN_MS: Final = 3_600_000
_WHOLE_PASSES: Final = 3
#: 做着的进程死了，别人过这么久接手。
_LEASE_MS: Final = 15_000
_POLL_S: Final = 2.0
#: 一批之后歇一歇：写锁与 Redis 让给别人。
_REST_S: Final = 0.01

#: 记下一次对整个人的、永远的吊销，连同同一个事务里要做的。
Banish = Callable[[int, Callable[[SqlConnection, int], Awaitable[None]]], Awaitable[None]]
#: 撤回一条还没到时的。
Cancel = Callable[[str], Awaitable[None]]


class Erasures:
    """``accounts``：账号归我们，没有的人抹不了；不然谁都可以（令牌说的、消息发给的）。"""

    def __init__(
        self,
        record: ErasureRepository,
        banish: Banish,
        *,
        accounts: bool,
    ) -> None:
        self._record = record
        self._banish = banish
        self._accounts = accounts
        self._requested = RepeatedWarning("person_erasure_requested", level="INFO")
        #: 有一个新的。
        self.news = asyncio.Event()

    async def erase(self, user_id: int, *, by: str) -> None:
        """返回时他已进不来，别的一分钟之内没有；幂等。他的号再也不给别人。

        :raises NotFoundError: 没有这个账号
        :raises DatabaseUnavailableError: 什么也没有发生
        """

        async def begin(connection: SqlConnection, now: int) -> None:
            known = await self._record.begin(connection, user_id, now, now + PASSES_MS[0])
            if self._accounts and not known:
                raise NotFoundError("no such account")

        await self._banish(user_id, begin)
        self._requested.say(user_id=user_id, by=by)
        self.news.set()


class Eraser:
    """``run`` 是它的一生，由监督者重启；几个进程同时有，一个人一时只有一个在做。"""

    def __init__(
        self,
        record: ErasureRepository,
        rows: PersonRows,
        traces: PersonTraces,
        *,
        cancel: Cancel,
        news: asyncio.Event,
        aside: Aside,
        clock: Clock = now_ms,
    ) -> None:
        self._record = record
        self._rows = rows
        self._traces = traces
        self._cancel = cancel
        self._news = news
        self._aside = aside
        self._clock = clock
        self._me = secrets.token_hex(8)
        self._kept_at = 0
        self._deferred = RepeatedWarning("person_erasure_deferred")
        #: 第一遍做完了几个人，只增。
        self.erased = 0

    async def run(self) -> None:
        await periodically(self.step, partial(summoned, self._news, _POLL_S), self._deferred)

    async def step(self) -> None:
        """到时的都做一遍。"""
        while job := await self._record.take(self._me, now := self._clock(), now + _LEASE_MS):
            self._kept_at = now
            if await self._aside.isolate([job], self._do, lambda one: one.user_id):
                return  # 它坏了：留到租约之后，别的也等那么久

    async def _do(self, jobs: Sequence[Erasure]) -> None:
        for job in jobs:
            counts = await self.sweep(job)
            later = PASSES_MS[job.passes + 1 :]
            next_at = job.requested_at + later[0] if later else None
            await self._record.passed(job, next_at, forget_name=job.passes + 1 >= _NAME_PASSES)
            if job.passes == 0:
                self.erased += 1
            log = logger.bind(user_id=job.user_id, passes=job.passes + 1, **counts)
            log.info("person_erased")

    async def sweep(self, job: Erasure) -> Counter[str]:
        """从头到尾一遍；返回各去掉了多少。"""
        counts: Counter[str] = Counter(received=0, written=0, segments=0)
        await self._traces.forget_keys(job.user_id)
        await self._received(job, counts)
        await self._written(job, counts)
        await self._meetings(job, counts)
        while await self._rows.forget_idempotency(job.user_id):
            await self._rest(job)
        await self._rows.forget_marks(job.user_id, job.name)
        await self._rows.forget_events(job.user_id)
        await self._traces.forget_queued(job.user_id)
        await self._traces.forget_origins(job.user_id)
        await self._traces.forget_keys(job.user_id)
        return counts

    async def _received(self, job: Erasure, counts: Counter[str]) -> None:
        """先 Redis：记录里没有了，就不知道还有哪些。"""
        user_id = job.user_id
        while ids := await self._rows.received(user_id):
            await self._traces.forget_received(user_id, ids)
            await self._rows.forget_received(user_id, ids)
            counts["received"] += len(ids)
            await self._rest(job)
        await self._rows.forget_receipts(user_id)
        await self._rows.forget_inbox(user_id)

    async def _written(self, job: Erasure, counts: Counter[str]) -> None:
        since = "" if job.passes < _WHOLE_PASSES else _earliest(job.requested_at - _MARGIN_MS)
        at: str | None = since
        while at is not None:
            at, found = await self._rows.written(job.user_id, at, self._clock())
            for start in range(0, len(found), BATCH):
                await self._forget_written(job, found[start : start + BATCH], counts)
            await self._rest(job)

    async def _forget_written(
        self, job: Erasure, found: list[Written], counts: Counter[str]
    ) -> None:
        now = self._clock()
        his = [one.message_id for one in found if one.theirs]
        for one in found:
            if one.theirs and one.deliver_at is not None and one.deliver_at > now:
                await self._cancel(one.message_id)
        await self._rows.blank(job.user_id, his)
        await self._traces.forget_written([one.message_id for one in found])
        await self._rows.disown(job.user_id, his)
        counts["written"] += len(his)
        await self._rest(job)

    async def _meetings(self, job: Erasure, counts: Counter[str]) -> None:
        user_id, last = job.user_id, ""
        while page := await self._rows.meetings(last):
            ids = list(page)
            names = await self._rows.attended(user_id, ids)
            strangers = [one for one in ids if one not in names]
            counts["segments"] += await self._rows.forget_speech(user_id, strangers, ())
            for meeting_id, name in names.items():
                known = [one for one in {name, job.name} if one]
                counts["segments"] += await self._rows.forget_speech(user_id, [meeting_id], known)
            if names or user_id in page.values():
                await self._traces.leave_meetings(user_id, list(names))
                await self._rows.leave_meetings(user_id, ids)
            last = ids[-1]
            await self._rest(job)

    async def _rest(self, job: Erasure) -> None:
        """歇一歇；租约过了三分之一就续，已归别人也照做：做两遍无害。"""
        if self._clock() - self._kept_at > _LEASE_MS // 3:
            self._kept_at = self._clock()
            await self._record.keep(job.user_id, self._me, self._kept_at + _LEASE_MS)
        await asyncio.sleep(_REST_S)


def _earliest(at_ms: int) -> str:
    """那一刻之后的 ULID 都比它大。"""
    return str(ULID.from_timestamp(max(at_ms, 0)))[:10]
