"""看一个人，看谁的信箱最满、最旧：给操作页的。"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from ..clock import Clock, now_ms
from ..deliver.offline_message_queue import OfflineMessageQueue
from ..mailbox_model import MailboxHead
from ..model import ConnectionInfo
from ..presence.online_status_service import OnlineStatusService
from ..protocol.envelope import OfflineMessage
from ..storage.recipients import DeliveryReports
from ..storage.rows import RecentMessage
from .latency import accepted_ms

MailboxOrder = Literal["fullest", "slowest"]
#: 读出一步：从哪里起 → (到了哪里, 其中的信箱)。
Walk = Callable[[bytes], Awaitable[tuple[bytes, list[MailboxHead]]]]
#: 认得的各人的名字；人归应用时没有人知道。
Names = Callable[[Sequence[int]], Awaitable[Mapping[int, str]]]

#: 每种次序记住这么多只。
KEPT_MAILBOXES: Final = 200
#: 一个请求至多走这么久，其余的下一个请求接着走。
WALK_S: Final = 1.0
#: 每走一步歇这一步的几倍：走着的时候至多占 Redis 的八分之一。
REST_FACTOR: Final = 7
#: 走完一遍之后这么久之内再问，不再走。
FRESH_MS: Final = 5_000
#: 看一个人时，信箱、最近的消息各至多几条。
SHOWN: Final = 50


class _Extremes:
    """走过的里面最满的、最旧的。"""

    def __init__(self) -> None:
        self._by: dict[MailboxOrder, dict[int, MailboxHead]] = {"fullest": {}, "slowest": {}}

    def add(self, found: Iterable[MailboxHead]) -> None:
        new = {head.user_id: head for head in found}
        for order, kept in self._by.items():
            best = _best(order, {**kept, **new}.values(), KEPT_MAILBOXES)
            self._by[order] = {head.user_id: head for head in best}

    def best(self, order: MailboxOrder, limit: int) -> list[MailboxHead]:
        return _best(order, self._by[order].values(), limit)


def _best(order: MailboxOrder, heads: Iterable[MailboxHead], limit: int) -> list[MailboxHead]:
    if order == "fullest":
        return heapq.nsmallest(limit, heads, key=lambda head: (-head.size, head.user_id))
    return heapq.nsmallest(limit, heads, key=lambda head: (head.oldest_id, head.user_id))


@dataclass(frozen=True, slots=True)
class Survey:
    """``complete``：``at`` 那时走完的一整遍；否则是走到一半的，还有没看到的信箱。"""

    heads: list[MailboxHead]
    complete: bool
    at: int


class MailboxSurvey:
    """没有按大小排的索引（那要给每一次投递加一条命令），所以要看的时候走一遍键空间。

    走得慢而有界：一个请求至多 ``WALK_S`` 秒，走不完的下一个请求接着走，走着的时候先说上一遍的。
    同时只有一个在走。数是走到那里时的，一遍之内各不相同。
    """

    def __init__(self, walk: Walk, clock: Clock = now_ms) -> None:
        self._walk = walk
        self._clock = clock
        self._walking = asyncio.Lock()
        self._cursor = b"0"
        self._passing = _Extremes()
        self._passed: tuple[_Extremes, int] | None = None

    async def read(self, order: MailboxOrder, limit: int) -> Survey:
        """:raises RedisUnavailableError: 走到的不忘，下次接着走"""
        if not self._fresh() and not self._walking.locked():
            async with self._walking:
                await self._go_on()
        if self._passed is not None:
            extremes, at = self._passed
            return Survey(extremes.best(order, limit), True, at)
        return Survey(self._passing.best(order, limit), False, self._clock())

    def _fresh(self) -> bool:
        return self._passed is not None and 0 <= self._clock() - self._passed[1] < FRESH_MS

    async def _go_on(self) -> None:
        began = time.monotonic()
        took_s = await self._step()
        while self._cursor != b"0" and time.monotonic() - began < WALK_S:
            await asyncio.sleep(took_s * REST_FACTOR)
            took_s = await self._step()

    async def _step(self) -> float:
        began = time.monotonic()
        self._cursor, found = await self._walk(self._cursor)
        self._passing.add(found)
        if self._cursor == b"0":
            self._passed, self._passing = (self._passing, self._clock()), _Extremes()
        return time.monotonic() - began


@dataclass(frozen=True, slots=True)
class MailboxLine:
    """清单里的一只信箱；``oldest_age_ms`` 为 None：最早的那条不是我们发的号，不知道多久了。"""

    user_id: int
    name: str | None
    count: int
    oldest_age_ms: int | None
    online: bool


@dataclass(frozen=True, slots=True)
class MailboxLines:
    items: list[MailboxLine]
    complete: bool
    at: int


@dataclass(frozen=True, slots=True)
class Inspected:
    """一个人此刻的样子；``held`` 是信箱里紧急者在前的几条，``count`` 是总数。"""

    user_id: int
    name: str | None
    connections: list[ConnectionInfo]
    count: int
    oldest_age_ms: int | None
    held: list[OfflineMessage]
    recent: list[RecentMessage]


class Inspector:
    """只读；错误是 ``UnavailableError``。"""

    def __init__(
        self,
        mailbox: OfflineMessageQueue,
        presence: OnlineStatusService,
        reports: DeliveryReports,
        names: Names,
        clock: Clock = now_ms,
    ) -> None:
        self._mailbox = mailbox
        self._presence = presence
        self._reports = reports
        self._names = names
        self._clock = clock
        self._survey = MailboxSurvey(mailbox.walk, clock)

    async def mailboxes(self, order: MailboxOrder, limit: int) -> MailboxLines:
        survey = await self._survey.read(order, limit)
        user_ids = [head.user_id for head in survey.heads]
        statuses = await self._presence.statuses(user_ids)
        names = await self._names(user_ids)
        items = [
            MailboxLine(
                head.user_id,
                names.get(head.user_id),
                head.size,
                self._age_ms(head.oldest_id),
                status is not None,
            )
            for head, status in zip(survey.heads, statuses, strict=True)
        ]
        return MailboxLines(items, survey.complete, survey.at)

    async def user(self, user_id: int) -> Inspected:
        """没有见过的人也有：什么都是空的。"""
        ids = await self._mailbox.message_ids(user_id)
        return Inspected(
            user_id=user_id,
            name=(await self._names([user_id])).get(user_id),
            connections=await self._presence.get_user_connections(user_id),
            count=len(ids),
            oldest_age_ms=self._age_ms(ids[0]) if ids else None,
            held=await self._mailbox.get_offline_messages(user_id, SHOWN),
            recent=await self._reports.recent(user_id, SHOWN),
        )

    def _age_ms(self, message_id: str) -> int | None:
        accepted_at = accepted_ms(message_id)
        return None if accepted_at is None else max(0, self._clock() - accepted_at)
