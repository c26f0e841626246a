"""留多久：哪些旧消息对每个收件人都完结了，一小步一小步地删；轮到谁。

没有“已完结”的索引（送达的热路不付它的钱，见 ``tables.py``）：沿主键从最早的一页一页看，主键就是
时间的次序，看到还不旧的为止。找的时候不占写锁，删的时候只删认得出主键的几行。
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal, NamedTuple

import msgspec
from sqlalchemy import (
    Boolean,
    ColumnElement,
    Table,
    and_,
    case,
    cast,
    delete,
    exists,
    func,
    or_,
    select,
    text,
    tuple_,
    update,
)

from ..model import DeliveryStatus
from .database import Repository
from .id_list import Recipient, among, among_pairs
from .tables import (
    broadcast_receipts,
    broadcast_states,
    broadcasts,
    message_recipients,
    messages,
    retention,
)

_m: Final = messages.c
_r: Final = message_recipients.c
_b: Final = broadcasts.c
_s: Final = broadcast_states.c
_t: Final = retention.c

#: 有了结局的。
_ENDED: Final = tuple(one.value for one in DeliveryStatus if one is not DeliveryStatus.PENDING)
#: 一条消息按人的行：收件人，广播的确认，各人对广播做过的（已读、归档）。
Part = Literal["recipients", "receipts", "states"]
_PARTS: Final[dict[Part, Table]] = {
    "recipients": message_recipients,
    "receipts": broadcast_receipts,
    "states": broadcast_states,
}
_PAIRS: Final = (
    " WHERE (message_id, user_id) IN"
    " (SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?))"
)
_SQLITE_ROWS: Final = {
    "recipients": (
        f"DELETE FROM mp_message_recipients{_PAIRS} AND status IN {_ENDED}"  # noqa: S608 — 常量
        " AND archived_at IS NULL"
    ),
    "receipts": f"DELETE FROM mp_broadcast_receipts{_PAIRS}",  # noqa: S608
    "states": f"DELETE FROM mp_broadcast_states{_PAIRS} AND archived_at IS NULL",  # noqa: S608
}
#: 删一行还要改收件箱的索引，一人一处，旧的多半是冷的：先由读的把那几页读进来，写的不等磁盘。
_SQLITE_WARM: Final = text(
    "SELECT count(r.read_at) FROM json_each(:pairs) AS v CROSS JOIN mp_message_recipients AS r"
    " INDEXED BY mp_ix_recipients_inbox WHERE r.user_id = json_extract(v.value, '$[1]')"
    " AND r.message_id = json_extract(v.value, '$[0]')"
)
_SQLITE_MESSAGES: Final = (
    "DELETE FROM mp_messages WHERE message_id IN (SELECT value FROM json_each(?))"
    " AND NOT EXISTS (SELECT 1 FROM mp_message_recipients AS r"
    " WHERE r.message_id = mp_messages.message_id)"
    " AND NOT EXISTS (SELECT 1 FROM mp_broadcast_receipts AS r"
    " WHERE r.message_id = mp_messages.message_id)"
    " AND NOT EXISTS (SELECT 1 FROM mp_broadcast_states AS s"
    " WHERE s.message_id = mp_messages.message_id)"
)
_SQLITE_BROADCASTS: Final = (
    "DELETE FROM mp_broadcasts WHERE message_id IN (SELECT value FROM json_each(?))"
    " AND NOT EXISTS (SELECT 1 FROM mp_messages AS m"
    " WHERE m.message_id = mp_broadcasts.message_id)"
)


class OldMessage(NamedTuple):
    """``is_over``：对每个收件人都完结了。"""

    message_id: str
    created_at: int
    recipient_count: int
    is_broadcast: bool
    is_over: bool


class Removed(NamedTuple):
    """删掉（或会删掉）几行。"""

    messages: int = 0
    recipients: int = 0
    broadcasts: int = 0
    receipts: int = 0

    def plus(self, other: Removed) -> Removed:
        return Removed(*(a + b for a, b in zip(self, other, strict=True)))


def _stays(now: int) -> ColumnElement[bool]:
    """一行收件人使整条消息留着：没有结局，或失败了而还可以重新投递。别的要留的，也加在这里。

    他归档着的，更新的程序写下的、不认识的状态，也留着。
    """
    requeueable = and_(_r.status == DeliveryStatus.FAILED, _m.expires_at > now)
    return or_(_r.status.not_in(_ENDED), requeueable, _r.archived_at.is_not(None))


class RetentionRepository(Repository):
    # ── 找 ──────────────────────────────────────────────────────────────────

    async def page(self, after: str, before_ms: int, now: int, limit: int) -> list[OldMessage]:
        """``after`` 之后的至多 ``limit`` 条 ``before_ms`` 之前接受的，最早的在前；没有则到头了。"""
        heads = (
            select(_m.message_id)
            .where(_m.message_id > after)
            .order_by(_m.message_id)
            .limit(limit)
            .subquery()
        )
        waits = exists().where(_r.message_id == _m.message_id, _stays(now))
        archived = exists().where(_s.message_id == _m.message_id, _s.archived_at.is_not(None))
        cast_over = and_(_b.logged_at.is_not(None), _m.expires_at <= now, ~archived)
        over = case(
            (_m.enqueued_at.is_(None), False),
            (_b.message_id.is_not(None), cast_over),
            else_=~waits,
        )
        statement = (
            select(
                _m.message_id,
                _m.created_at,
                _m.recipient_count,
                _b.message_id.is_not(None),
                cast(over, Boolean),
            )
            .join(heads, heads.c.message_id == _m.message_id)
            .join(broadcasts, _b.message_id == _m.message_id, isouter=True)
            .where(_m.created_at < before_ms)
            .order_by(_m.message_id)
        )
        return [OldMessage(*row) for row in await self._database.rows(statement)]

    async def counts(self, message_ids: Sequence[str]) -> Removed:
        """它们一共几行。"""
        found = [
            await self._database.scalar(
                select(func.count())
                .select_from(table)
                .where(among(self._database, table.c.message_id, message_ids))
            )
            for table in (messages, message_recipients, broadcasts, broadcast_receipts)
        ]
        return Removed(*found)

    async def rows_of(self, part: Part, message_ids: Sequence[str], limit: int) -> list[Recipient]:
        """它们的 ``limit`` 行，照主键的次序。"""
        table = _PARTS[part]
        key = (table.c.message_id, table.c.user_id)
        these = among(self._database, table.c.message_id, message_ids)
        statement = select(*key).where(these).order_by(*key).limit(limit)
        pairs = [(row[0], row[1]) for row in await self._database.rows(statement)]
        if part == "recipients" and self._database.is_sqlite:
            await self._database.rows(_SQLITE_WARM, {"pairs": _listed(pairs)[0]})
        return pairs

    @property
    def step_s(self) -> float:
        """一步该多久：SQLite 只有一个写者，别人等着；PostgreSQL 上谁也不等。"""
        return 0.004 if self._database.is_sqlite else 0.1

    # ── 删：各自一个短的事务，幂等，返回几行 ─────────────────────────────────

    async def forget_rows(self, part: Part, pairs: Sequence[Recipient]) -> int:
        """又变成没有结局的（重新投递了）、归档了的不删；别人锁着的也不等，下一遍再来。"""
        table = _PARTS[part]
        if self._database.is_sqlite:
            statement = _SQLITE_ROWS[part], _listed(pairs)
            return (await self._database.write_sqlite([statement]))[0]
        key, these = (
            (table.c.message_id, table.c.user_id),
            among_pairs(self._database, pairs, table),
        )
        free = select(*key).where(these).with_for_update(skip_locked=True)
        if part == "recipients":
            free = free.where(_r.status.in_(_ENDED), _r.archived_at.is_(None))
        elif part == "states":
            free = free.where(_s.archived_at.is_(None))
        return await self._database.change(delete(table).where(tuple_(*key).in_(free)))

    async def forget_messages(self, message_ids: Sequence[str]) -> Removed:
        """还有收件人、确认、归档的不删。"""
        listed = _listed(message_ids)
        if self._database.is_sqlite:
            statements = [(_SQLITE_MESSAGES, listed), (_SQLITE_BROADCASTS, listed)]
            counts = await self._database.write_sqlite(statements)
            return Removed(messages=counts[0], broadcasts=counts[1])
        left = [exists().where(table.c.message_id == _m.message_id) for table in _PARTS.values()]
        these = among(self._database, _m.message_id, message_ids)
        ownerless = and_(
            among(self._database, _b.message_id, message_ids),
            ~exists().where(_m.message_id == _b.message_id),
        )
        async with self._database.transaction() as connection:
            removed = await connection.execute(delete(messages).where(these, ~or_(*left)))
            casts = await connection.execute(delete(broadcasts).where(ownerless))
            return Removed(messages=removed.rowcount, broadcasts=casts.rowcount)

    # ── SQLite 的文件 ───────────────────────────────────────────────────────

    async def free_pages(self) -> tuple[int, int]:
        """空着的、一共的页；PostgreSQL 自己管，(0, 0)。不能缩小的文件也是。"""
        if not self._database.is_sqlite:
            return 0, 0
        found = [
            (await self._database.read_sqlite((f"PRAGMA {name}", ())))[0][0]
            for name in ("auto_vacuum", "freelist_count", "page_count")
        ]
        return (found[1], found[2]) if found[0] == _INCREMENTAL else (0, 0)

    async def shrink(self, pages: int) -> None:
        """文件末尾让出至多 ``pages`` 页。"""
        await self._database.shrink_sqlite(pages)

    # ── 轮到谁 ──────────────────────────────────────────────────────────────

    async def default_days(self) -> int:
        """没有说留多久时的天数，建库时定下。"""
        return int(await self._database.scalar(select(_t.default_days)) or 0)

    async def take(self, me: str, now: int, until: int, every_ms: int) -> bool:
        """到时了而没有别人在做：归 ``me`` 到 ``until``。``every_ms`` 为 0：不论到时没有。

        离现在远得不合理的时刻（钟跳过）不算数。
        """
        lease_ms = until - now
        due = or_(_t.next_at <= now, _t.next_at > now + 2 * every_ms)
        free = or_(_t.holder == me, _t.lease_until <= now, _t.lease_until > now + 2 * lease_ms)
        mine = and_(due, free) if every_ms else free
        return await self._update(mine, holder=me, lease_until=until)

    async def keep(self, me: str, until: int) -> bool:
        """False：已归别人。"""
        return await self._update(_t.holder == me, lease_until=until)

    async def done(self, me: str, next_at: int) -> None:
        """这一遍做完了，放开。"""
        await self._update(_t.holder == me, next_at=next_at, lease_until=0)

    async def _update(self, condition: ColumnElement[bool], **values: Any) -> bool:
        statement = update(retention).where(condition).values(**values)
        return await self._database.change(statement) == 1


#: ``PRAGMA auto_vacuum`` 的 INCREMENTAL。
_INCREMENTAL: Final = 2


def _listed(items: Sequence[Any]) -> tuple[str]:
    return (msgspec.json.encode(items).decode(),)
