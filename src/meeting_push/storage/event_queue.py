"""出门的事件送走的一头：轮到谁发，一页一页地取，了结，死信。

一个接收者同时只有一个进程发（租约在 SQL 里：队列也在这里，它不在就没有什么可发）。
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import bindparam, delete, exists, func, insert, or_, select, text, update

from .database import Repository
from .id_list import among
from .operations_tables import event_receivers, events_out

_e: Final = events_out.c
_t: Final = event_receivers.c
_FIRST: Final = text(
    "INSERT INTO mp_event_receivers (receiver, holder, lease_until) VALUES (:receiver, '', 0)"
    " ON CONFLICT (receiver) DO NOTHING"
)


class EventRow(NamedTuple):
    """一份：一次 POST。``items`` 是 JSON 数组，见 ``event_outbox.FIELDS``。"""

    id: int
    batch_id: str
    first_event: int
    kind: str
    items: str
    event_count: int
    created_at: int
    since: int
    attempts: int
    next_at: int
    failing_since: int | None
    aside: bool


class FailedRow(NamedTuple):
    """又没有送成的一份。"""

    id: int
    attempts: int
    next_at: int
    failing_since: int
    aside: bool
    why: str


class DeadRow(NamedTuple):
    id: int
    kind: str
    event_count: int
    created_at: int
    dead_at: int
    attempts: int
    why: str | None


class Waiting(NamedTuple):
    """一个接收者的：等着几个事件、最早从何时等起，死信几个事件。"""

    events: int
    oldest: int | None
    dead: int


class Lease(NamedTuple):
    parked_at: int | None


_ROW: Final = select(*(_e[name] for name in EventRow._fields))
_FAILED: Final = (
    update(events_out)
    .where(_e.id == bindparam("row"), _e.dead_at.is_(None))
    .values(
        attempts=bindparam("attempts"),
        next_at=bindparam("next_at"),
        failing_since=bindparam("failing_since"),
        aside=bindparam("aside"),
        why=bindparam("why"),
    )
)


class EventQueueRepository(Repository):
    """``receiver`` 是接收者的钥匙（``events/config.py``）；错误同 ``Database.transaction``。"""

    # ── 轮到谁 ───────────────────────────────────────────────────────────────

    async def lease(self, receiver: str, holder: str, now: int, lease_ms: int) -> Lease | None:
        """轮到 ``holder``，或仍是他；None：在别人手里。到期时刻远得不合理的（钟跳过）不算数。"""
        free = or_(
            _t.holder.in_((holder, "")),
            _t.lease_until < now,
            _t.lease_until > now + 2 * lease_ms,
        )
        statement = (
            update(event_receivers)
            .where(_t.receiver == receiver, free)
            .values(holder=holder, lease_until=now + lease_ms)
            .returning(_t.parked_at)
        )
        async with self._database.transaction() as connection:
            found = (await connection.execute(statement)).one_or_none()
            if found is None:
                await connection.execute(_FIRST, {"receiver": receiver})
                found = (await connection.execute(statement)).one_or_none()
        return None if found is None else Lease(found[0])

    async def release(self, receiver: str, holder: str, now: int) -> None:
        """不等租期过去；不在他手里则无事。``now`` 留下：此前还有人送，见 ``unclaimed``。"""
        mine = update(event_receivers).where(_t.receiver == receiver, _t.holder == holder)
        await self._database.change(mine.values(holder="", lease_until=now))

    async def unclaimed(self, since: int) -> list[str]:
        """还有东西、而从 ``since`` 起没有谁送的接收者：从文件里去掉了，或登记它的应用没有了。"""
        taken = select(_t.receiver).where(_t.receiver == _e.receiver, _t.lease_until >= since)
        statement = select(_e.receiver).distinct().where(~exists(taken.correlate(events_out)))
        return [row[0] for row in await self._database.rows(statement.order_by(_e.receiver))]

    async def park(self, receiver: str, now: int | None) -> None:
        """停下（它说自己没有了）；None：再发。"""
        async with self._database.transaction() as connection:
            await connection.execute(_FIRST, {"receiver": receiver})
            one = update(event_receivers).where(_t.receiver == receiver)
            await connection.execute(one.values(parked_at=now))

    async def parked(self) -> dict[str, int]:
        statement = select(_t.receiver, _t.parked_at).where(_t.parked_at.is_not(None))
        return {row[0]: row[1] for row in await self._database.rows(statement)}

    # ── 取 ──────────────────────────────────────────────────────────────────

    async def due(self, receiver: str, now: int, limit: int) -> list[int]:
        """到时的各份的号，小的在前；只看索引与很少几列。"""
        statement = (
            select(_e.id)
            .where(_e.receiver == receiver, _e.dead_at.is_(None), _e.next_at <= now)
            .order_by(_e.id)
            .limit(limit)
        )
        return [row[0] for row in await self._database.rows(statement)]

    async def load(self, ids: Sequence[int]) -> list[EventRow]:
        if not ids:
            return []
        statement = _ROW.where(among(self._database, _e.id, ids)).order_by(_e.id)
        return [EventRow(*row) for row in await self._database.rows(statement)]

    async def failing(self, receiver: str, limit: int) -> list[EventRow]:
        """送过、没有送成、没有让开的：接手的人要知道哪些消息在等。"""
        statement = (
            _ROW.where(_e.receiver == receiver, _e.dead_at.is_(None))
            .where(_e.attempts > 0, _e.aside.is_(False))
            .order_by(_e.id)
            .limit(limit)
        )
        return [EventRow(*row) for row in await self._database.rows(statement)]

    # ── 了结 ─────────────────────────────────────────────────────────────────

    async def settle(self, done: Sequence[int], failed: Sequence[FailedRow]) -> None:
        """送成的删掉，没有送成的记下，一个事务。幂等。"""
        async with self._database.transaction() as connection:
            if done:
                await connection.execute(
                    delete(events_out).where(among(self._database, _e.id, done))
                )
            if failed:
                rows = [{"row": one.id, **one._asdict()} for one in failed]
                for row in rows:
                    del row["id"]
                await connection.execute(_FAILED, rows)

    async def split(self, row: EventRow, failed: FailedRow) -> None:
        """一份里的各个事件此后各是各的：坏的那一个不连累别的。"""
        items = msgspec.json.decode(row.items, type=list[msgspec.Raw])
        async with self._database.transaction() as connection:
            taken = delete(events_out).where(_e.id == row.id).returning(_e.receiver)
            found = (await connection.execute(taken)).one_or_none()
            if found is None:
                return
            singles = [
                {
                    **row._asdict(),
                    **failed._asdict(),
                    "receiver": found[0],
                    "first_event": row.first_event + place,
                    "items": f"[{bytes(item).decode()}]",
                    "event_count": 1,
                }
                for place, item in enumerate(items)
            ]
            for single in singles:
                del single["id"]
            await connection.execute(insert(events_out), singles)

    async def bury(self, ids: Sequence[int], why: str, now: int) -> None:
        """成为死信；送过的留着上一次为什么没有送成。幂等。"""
        if not ids:
            return
        waiting = update(events_out).where(among(self._database, _e.id, ids), _e.dead_at.is_(None))
        await self._database.change(waiting.values(dead_at=now, why=func.coalesce(_e.why, why)))

    async def oldest(self, receiver: str, before: int | None, limit: int) -> list[tuple[int, int]]:
        """最早的几份：（号，几个事件）；``before``：只要从它之前就等着的。"""
        statement = select(_e.id, _e.event_count).where(
            _e.receiver == receiver, _e.dead_at.is_(None)
        )
        if before is not None:
            statement = statement.where(_e.since < before)
        rows = await self._database.rows(statement.order_by(_e.id).limit(limit))
        return [(row[0], row[1]) for row in rows]

    # ── 死信 ─────────────────────────────────────────────────────────────────

    async def waiting(self, receiver: str) -> Waiting:
        mine = _e.receiver == receiver
        left = select(func.coalesce(func.sum(_e.event_count), 0), func.min(_e.since)).where(
            mine, _e.dead_at.is_(None)
        )
        dead = select(func.coalesce(func.sum(_e.event_count), 0)).where(
            mine, _e.dead_at.is_not(None)
        )
        row = await self._database.row(left)
        assert row is not None
        return Waiting(int(row[0]), row[1], int(await self._database.scalar(dead)))

    async def dead(self, receiver: str, limit: int) -> list[DeadRow]:
        """新的在前。"""
        statement = (
            select(*(_e[name] for name in DeadRow._fields))
            .where(_e.receiver == receiver, _e.dead_at.is_not(None))
            .order_by(_e.dead_at.desc(), _e.id.desc())
            .limit(limit)
        )
        return [DeadRow(*row) for row in await self._database.rows(statement)]

    async def requeue(self, receiver: str, now: int, limit: int) -> int:
        """死信再送，返回几份（至多 ``limit``）；次数与等待都从头算。"""
        some = (
            select(_e.id)
            .where(_e.receiver == receiver, _e.dead_at.is_not(None))
            .order_by(_e.id)
            .limit(limit)
        )
        again: dict[str, Any] = {"dead_at": None, "why": None, "failing_since": None}
        again |= {"attempts": 0, "next_at": 0, "since": now, "aside": False}
        return await self._database.change(
            update(events_out).where(_e.id.in_(some)).values(**again)
        )

    async def forget(self, receiver: str, limit: int) -> int:
        """丢掉它的全部，等着的也在内，返回几份（至多 ``limit``）。"""
        some = select(_e.id).where(_e.receiver == receiver).limit(limit)
        return await self._database.change(delete(events_out).where(_e.id.in_(some)))

    async def forget_dead(self, receiver: str, before: int, keep: int, limit: int) -> int:
        """删掉死信：``before`` 之前的，与最新的 ``keep`` 份之外的；一次至多 ``limit`` 份。"""
        newest = (
            select(_e.id)
            .where(_e.receiver == receiver, _e.dead_at.is_not(None))
            .order_by(_e.dead_at.desc(), _e.id.desc())
            .offset(keep)
            .limit(limit)
        )
        old = (
            select(_e.id)
            .where(_e.receiver == receiver, _e.dead_at < before)
            .order_by(_e.dead_at)
            .limit(limit)
        )
        gone = [row[0] for one in (newest, old) for row in await self._database.rows(one)]
        if not gone:
            return 0
        return await self._database.change(
            delete(events_out).where(among(self._database, _e.id, gone))
        )
