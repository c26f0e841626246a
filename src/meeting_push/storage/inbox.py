"""一个用户的收件箱：已到时的消息与他被认识以来的广播，新的在前；已读、归档、数目。与他发出去的。"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Row,
    Update,
    bindparam,
    case,
    exists,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection
from ulid import ULID

from ..clock import Clock, now_ms
from ..errors import DatabaseUnavailableError
from ..model import URGENT_PRIORITY, DeliveryStatus
from ..person_id import NOBODY
from .database import Database, Repository
from .event_outbox import READ
from .id_list import among
from .inbox_pages import (
    EVERYTHING,
    FIRST_RECIPIENTS,
    MAX_PAGE_CHARS,
    OWN,
    InboxFilter,
    of_casts,
    one_statement,
    page_statement,
    sent_statement,
)
from .rows import InboxChange, InboxCounts, InboxItem, Page, SentItem, shown
from .tables import (
    broadcast_receipts,
    broadcast_states,
    broadcasts,
    inboxes,
    message_recipients,
    messages,
    people,
    users,
)

__all__ = ["MAX_PAGE_CHARS", "InboxRepository"]

_r: Final = message_recipients.c
_m: Final = messages.c
_b: Final = broadcasts.c
_s: Final = broadcast_states.c
_i: Final = inboxes.c
#: 记着多少个人从何时起被认识。
_MAX_KNOWN: Final = 100_000
#: 第一次看收件箱时，看他确认过最近这么多条广播里的哪些。
_RECENT_CASTS: Final = 1_000

_UNREAD: Final = select(func.count()).where(*OWN, _r.read_at.is_(None), _r.archived_at.is_(None))
_UNREAD_CASTS: Final = of_casts(func.count()).where(_s.read_at.is_(None), _s.archived_at.is_(None))
_UNREAD_BOTH: Final = select(_UNREAD.scalar_subquery() + _UNREAD_CASTS.scalar_subquery())
_IS_URGENT: Final = case((_m.priority >= URGENT_PRIORITY, 1), else_=0)
_URGENT: Final = (
    select(func.count(), func.coalesce(func.sum(_IS_URGENT), 0))
    .join(messages, _m.message_id == _r.message_id)
    .where(*OWN, _r.read_at.is_(None), _r.archived_at.is_(None))
)
_URGENT_CASTS: Final = of_casts(func.count(), func.coalesce(func.sum(_IS_URGENT), 0)).where(
    _s.read_at.is_(None), _s.archived_at.is_(None)
)
_ARCHIVED: Final = select(func.count()).where(*OWN, _r.archived_at.is_not(None))
_ARCHIVED_CASTS: Final = of_casts(func.count()).where(_s.archived_at.is_not(None))
_VERSION: Final = select(_i.version).where(_i.user_id == bindparam("user_id"))
_SINCE: Final = select(_i.since).where(_i.user_id == bindparam("user_id"))


class InboxRepository:
    """``clock`` 决定 ``read_at`` 与哪些定时消息已经到时。"""

    def __init__(self, database: Database, clock: Clock = now_ms) -> None:
        self._database = database
        self._clock = clock
        self._known: dict[int, str] = {}

    async def page(
        self,
        user_id: int,
        wanted: InboxFilter = EVERYTHING,
        cursor: str | None = None,
        limit: int = 50,
    ) -> Page[InboxItem, str]:
        """比 ``cursor``（上一页最后一条的 id）更早的至多 ``limit`` 条、``MAX_PAGE_CHARS``。"""
        given = await self._given(user_id)
        given |= {"cursor": cursor, "limit": limit + 1, **wanted.values}
        statement = page_statement(
            wanted.shape, after_cursor=cursor is not None, sqlite=self._database.is_sqlite
        )
        rows = await self._database.rows(statement, given)
        items = [_item(row) for row in rows[:limit]]
        more = bool(rows) and rows[0].found > len(items)
        return Page(items, items[-1].message.message_id if more else None)

    async def get_for(self, user_id: int, message_id: str) -> InboxItem | None:
        """不是他的、没到时的、不存在的，都是 None。"""
        given = await self._given(user_id) | {"message_id": message_id}
        row = await self._database.row(one_statement(), given)
        return None if row is None else _item(row)

    async def unread_count(self, user_id: int) -> int:
        """没有归档的。"""
        given = await self._given(user_id)
        return await self._database.scalar(_UNREAD_BOTH, given) or 0

    async def counts(self, user_id: int) -> InboxCounts:
        """版本先读：数到的至少有它说的那么新。"""
        given = await self._given(user_id)
        async with self._database.connect() as connection:
            version = await connection.scalar(_VERSION, given) or 0
            own = (await connection.execute(_URGENT, given)).one()
            casts = (await connection.execute(_URGENT_CASTS, given)).one()
            archived = await connection.scalar(_ARCHIVED, given) or 0
            archived += await connection.scalar(_ARCHIVED_CASTS, given) or 0
        return InboxCounts(own[0] + casts[0], int(own[1] + casts[1]), archived, version)

    # ── 改 ──────────────────────────────────────────────────────────────────

    async def mark_read(self, user_id: int, message_ids: Sequence[str]) -> list[str]:
        """标为已读，返回此刻才变为已读的 id（升序）；不是他的被忽略。幂等。"""
        own, casts = self._these(message_ids)
        return await self._mark(user_id, own, casts)

    async def mark_read_upto(self, user_id: int, message_id: str) -> list[str]:
        """``message_id`` 和比它早的全部标为已读；其余同 ``mark_read``。"""
        return await self._mark(user_id, _r.message_id <= message_id, _b.message_id <= message_id)

    async def set_state(
        self,
        user_id: int,
        message_ids: Sequence[str],
        *,
        read: bool | None = None,
        archived: bool | None = None,
    ) -> InboxChange:
        """已读、归档改成这样，None 不改；不是他的被忽略。原子，幂等。

        未读数在同一个事务里数，同一个人的一个一个地来：版本大的，数也新。
        """
        own, casts = self._these(message_ids)
        given = await self._given(user_id)
        if not await self._would_change(given, own, casts, read, archived):
            async with self._database.connect() as connection:
                version = await connection.scalar(_VERSION, given) or 0  # 先读，同 ``counts``
                return await self._change(connection, given, own, casts, version)
        events = self._database.events
        async with self._database.transaction() as connection:
            version = await self._advance(connection, given)
            fresh = await self._set(connection, given, "read_at", read, own, casts)
            fresh += await self._set(connection, given, "archived_at", archived, own, casts)
            if read and READ in events.wanted:
                await self._tell_read(connection, user_id, fresh, given["now"])
            change = await self._change(connection, given, own, casts, version, bool(fresh))
        events.wake()
        return change

    async def _change(
        self,
        connection: AsyncConnection,
        given: dict[str, Any],
        own: ColumnElement[bool],
        casts: ColumnElement[bool],
        version: int,
        changed: bool = False,
    ) -> InboxChange:
        mine = await connection.scalars(select(_r.message_id).where(*OWN, own), given)
        his = [*mine, *await connection.scalars(of_casts(_b.message_id).where(casts), given)]
        unread = await connection.scalar(_UNREAD_BOTH, given) or 0
        return InboxChange(sorted(his), unread, version, changed)

    async def _mark(
        self, user_id: int, own: ColumnElement[bool], casts: ColumnElement[bool]
    ) -> list[str]:
        given = await self._given(user_id)
        events = self._database.events
        if not await self._would_change(given, own, casts, True, None):
            return []
        async with self._database.transaction() as connection:
            await self._advance(connection, given)
            fresh = await self._set(connection, given, "read_at", True, own, casts)
            if READ in events.wanted:
                await self._tell_read(connection, user_id, fresh, given["now"])
        events.wake()
        return sorted(fresh)

    async def _would_change(
        self,
        given: dict[str, Any],
        own: ColumnElement[bool],
        casts: ColumnElement[bool],
        read: bool | None,
        archived: bool | None,
    ) -> bool:
        """已经是这样的（另一台设备、重试、“全部已读”）什么也不写，版本也不动。"""
        async with self._database.connect() as connection:
            for name, wanted in (("read_at", read), ("archived_at", archived)):
                if wanted is None:
                    continue
                mine = select(_r.message_id).where(*OWN, own, *_own_differs(name, wanted))
                cast = of_casts(_b.message_id).where(casts, _differs(_s[name], wanted))
                for found in (mine, cast):
                    if await connection.scalar(found.limit(1), given) is not None:
                        return True
        return False

    async def _tell_read(
        self, connection: AsyncConnection, user_id: int, fresh: Sequence[str], now: int
    ) -> None:
        told = [(message_id, user_id, now) for message_id in sorted(fresh)]
        await self._database.events.add(connection, READ, told, now)

    async def _advance(self, connection: AsyncConnection, given: dict[str, Any]) -> int:
        """他的收件箱又变了一次；锁着他的那一行到提交，所以排在别的锁前面。"""
        first = {"user_id": given["user_id"], "since": given["since"], "version": 1}
        statement = self._insert(inboxes).values(first)
        statement = statement.on_conflict_do_update(
            index_elements=[_i.user_id], set_={"version": _i.version + 1}
        ).returning(_i.version)
        version: int = (await connection.execute(statement)).scalar_one()
        return version

    async def _set(
        self,
        connection: AsyncConnection,
        given: dict[str, Any],
        name: str,
        wanted: bool | None,
        own: ColumnElement[bool],
        casts: ColumnElement[bool],
    ) -> list[str]:
        """返回变了的。"""
        if wanted is None:
            return []
        at = given["now"] if wanted else None
        change = update(message_recipients).where(own, *_own_differs(name, wanted))
        return [
            *await _changed(connection, change.values({name: at}), given),
            *await self._set_casts(connection, given, name, at, casts),
        ]

    async def _set_casts(
        self,
        connection: AsyncConnection,
        given: dict[str, Any],
        column: str,
        at: int | None,
        casts: ColumnElement[bool],
    ) -> list[str]:
        """广播：他的一行没有就写一行。"""
        differs = _differs(_s[column], at is not None)
        found = of_casts(_b.message_id).where(casts, differs).order_by(_b.message_id)
        ids = list(await connection.scalars(found, given))
        if ids:
            rows = [{"user_id": given["user_id"], "message_id": one, column: at} for one in ids]
            statement = self._insert(broadcast_states).on_conflict_do_update(
                index_elements=[_s.user_id, _s.message_id], set_={column: at}
            )
            await connection.execute(statement, rows)
        return ids

    def _these(self, message_ids: Sequence[str]) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
        return (
            among(self._database, _r.message_id, message_ids),
            among(self._database, _b.message_id, message_ids),
        )

    def _insert(self, table: Any) -> Any:
        dialect = sqlite if self._database.is_sqlite else postgresql
        return dialect.insert(table)

    # ── 从何时起被认识 ───────────────────────────────────────────────────────

    async def _given(self, user_id: int) -> dict[str, Any]:
        return {"user_id": user_id, "now": self._clock(), "since": await self._since(user_id)}

    async def _since(self, user_id: int) -> str:
        """第一次问起时定下，记着；此刻写不了，下一次再记。"""
        known = self._known.get(user_id)
        if known is not None:
            return known
        since: str | None = await self._database.scalar(_SINCE, {"user_id": user_id})
        if since is None:
            since = await self._earliest(user_id)
            row = {"user_id": user_id, "since": since, "version": 0}
            try:
                await self._database.change(
                    self._insert(inboxes).values(row).on_conflict_do_nothing()
                )
            except DatabaseUnavailableError:
                return since
        if len(self._known) >= _MAX_KNOWN:
            del self._known[next(iter(self._known))]
        self._known[user_id] = since
        return since

    async def _earliest(self, user_id: int) -> str:
        """有账号、有号、收到第一条、确认第一条广播，最早的那一刻；都没有就是此刻。"""
        account = select(users.c.created_at).where(users.c.id == user_id)
        person = select(people.c.created_at).where(people.c.id == user_id - NOBODY)
        first = select(_r.message_id).where(_r.user_id == user_id).order_by(_r.message_id).limit(1)
        receipt = (
            select(broadcast_receipts.c.message_id)
            .where(
                broadcast_receipts.c.message_id == _b.message_id,
                broadcast_receipts.c.user_id == user_id,
            )
            .correlate(broadcasts)
            .scalar_subquery()
        )
        recent = (
            select(receipt)
            .select_from(broadcasts)
            .order_by(_b.message_id.desc())
            .limit(_RECENT_CASTS)
        )
        async with self._database.connect() as connection:
            times = [await connection.scalar(account), await connection.scalar(person)]
            ids = [await connection.scalar(first), *await connection.scalars(recent)]
        at = min(time for time in (*times, self._clock()) if time is not None)
        earliest: str = min(one for one in (*ids, _first_id(at)) if one is not None)
        return earliest


class SentRepository(Repository):
    """发出去的：沿发送者（密钥）自己的索引走，别人发了多少都不看。"""

    async def page(self, account: int, cursor: str | None, limit: int) -> Page[SentItem, str]:
        """``account`` 自己发的，新的在前，至多 ``limit`` 条、``MAX_PAGE_CHARS``；负的是密钥。

        密钥替谁发的归密钥，不归那个人。
        """
        given = {"account": abs(account), "cursor": cursor, "limit": limit + 1}
        statement = sent_statement(by_key=account < 0, after_cursor=cursor is not None)
        rows = await self._database.rows(statement, given)
        items = [_sent(row) for row in rows[:limit]]
        more = bool(rows) and rows[0].found > len(items)
        return Page(items, items[-1].message.message_id if more else None)


def _sent(row: Row[*tuple[Any, ...]]) -> SentItem:
    first = [row._mapping[f"recipient_{n}"] for n in range(FIRST_RECIPIENTS)]
    known = tuple(number for number in first if number is not None)
    return SentItem(shown(row), row.recipient_count, row.broadcast, known)


def _first_id(at: int) -> str:
    """那一刻起的 id 都不小于它。"""
    return str(ULID.from_timestamp(max(at, 0)))[:10] + "0" * 16


def _differs(column: ColumnElement[Any], wanted: bool) -> ColumnElement[bool]:
    return column.is_(None) if wanted else column.is_not(None)


def _own_differs(name: str, wanted: bool) -> list[ColumnElement[bool]]:
    """撤回了的不再成为未读。"""
    differs = _differs(_r[name], wanted)
    if wanted or name != "read_at":
        return [differs]
    gone = exists().where(_m.message_id == _r.message_id, _m.withdrawn_at.is_not(None))
    return [differs, ~gone]


async def _changed(
    connection: AsyncConnection, statement: Update, given: dict[str, Any]
) -> list[str]:
    """不用 ``OWN``：UPDATE 的参数不能与列同名。"""
    due = or_(_r.deliver_at.is_(None), _r.deliver_at <= given["now"])
    changed = statement.where(_r.user_id == given["user_id"], due).returning(_r.message_id)
    return list(await connection.scalars(changed))


def _item(row: Row[*tuple[Any, ...]]) -> InboxItem:
    return InboxItem(
        shown(row), DeliveryStatus(row.status), row.read_at, row.archived_at, row.broadcast
    )
