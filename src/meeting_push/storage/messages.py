"""消息与它的 outbox。"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import islice
from typing import Any, Final

import msgspec
from sqlalchemy import (
    BigInteger,
    Boolean,
    Integer,
    SmallInteger,
    func,
    select,
    text,
    update,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from ..model import DeliveryStatus, Message, Outgoing, cause_of
from ..protocol.envelope import encode_tail
from .database import Repository
from .event_outbox import ACCEPTED, FAILED, PG_ADD, accepted_item, failed_columns
from .id_list import among
from .idempotency import PG_CLAIM, Claim, pg_claimed, sqlite_claim
from .rows import MESSAGE_COLUMNS, readable
from .sqlite import Statement
from .tables import message_recipients, messages

#: 一次给数据库多少行收件人：一批可达千万行，不能同时摊在内存里。
_CHUNK_ROWS: Final = 20_000
#: SQLite 的一条语句里多少条消息。``executemany`` 每行交还、再抢一次 GIL：事件循环忙时，每一行
#: 都要排队等它（见 docs/tuning.md 的“SQLite”）。一条语句只抢一次。
_STATEMENT_MESSAGES: Final = 50

#: ``set_aside`` 的原因：行被改坏了，或做不出正文。
UNREADABLE: Final = "unreadable"

#: 出了错，写者整个回滚（``sqlite_writer``），不必为半条语句的回滚把要改的每一页先抄下：过了 64 KB
#: 就写进临时文件，100 条给 100 个人，一条 8–15 µs（sqlite.org/tempfiles.html 2.5 节）。
_SQLITE_INSERT: Final = "INSERT OR FAIL INTO"
#: ``?1`` 是 {message_id: [user_id, …]}，``?2`` 是它们共同的 deliver_at。
_SQLITE_RECIPIENTS: Final = (
    f"{_SQLITE_INSERT} mp_message_recipients"  # noqa: S608 — 常量
    " (message_id, user_id, deliver_at, status, attempts)"
    " SELECT m.key, r.value, ?2, 'pending', 0 FROM json_each(?1) AS m, json_each(m.value) AS r"
)
_SQLITE_ENQUEUED: Final = (
    "UPDATE mp_messages SET enqueued_at = ?"
    " WHERE message_id IN (SELECT value FROM json_each(?)) AND enqueued_at IS NULL"
)
#: ``_row`` 的各列：接受之后才有值的不在其中。
_COLUMNS: Final = (
    *("message_id", "message_type", "priority", "title", "content", "sender_id", "sender_name"),
    *("created_at", "expires_at", "deliver_at", "data", "receipt", "recipient_count", "key_id"),
)
_PG_TYPES: Final = {
    BigInteger: "bigint",
    Boolean: "boolean",
    Integer: "integer",
    SmallInteger: "smallint",
}


def _pg_array(name: str) -> str:
    return f"CAST(:{name} AS {_PG_TYPES.get(type(messages.c[name].type), 'text')}[])"


_PG_MESSAGES: Final = (
    f"INSERT INTO mp_messages ({', '.join(_COLUMNS)})"  # noqa: S608 — 只有列名
    f" SELECT * FROM unnest({', '.join(map(_pg_array, _COLUMNS))})"
)
_PG_RECIPIENTS: Final = (
    "INSERT INTO mp_message_recipients (message_id, user_id, deliver_at, status, attempts)"
    " SELECT m, u, d, 'pending', 0 FROM unnest("
    "CAST(:message_ids AS varchar[]), CAST(:user_ids AS bigint[]), CAST(:due AS bigint[])"
    ") AS v (m, u, d)"
)
#: 键、消息、收件人一个来回；键没有全占下，除以零，什么也没有写下。
_STORED: Final = (
    f"WITH c AS ({PG_CLAIM} RETURNING 1), m AS ({_PG_MESSAGES}), r AS ({_PG_RECIPIENTS})"
)
_IF_CLAIMED: Final = (
    " SELECT 1 / CAST((SELECT count(*) FROM c) = CAST(:claimed AS integer) AS integer)"
)
_PG_STORE: Final = text(_STORED + _IF_CLAIMED)
#: 连同出门的事件。
_PG_STORE_TOLD: Final = text(f"{_STORED}, e AS ({PG_ADD}){_IF_CLAIMED}")
_DIVIDED_BY_ZERO: Final = "22012"
#: 同 ``Message.account``。
_ACCOUNT: Final = func.coalesce(-messages.c.key_id, messages.c.sender_id)
_IDS: Final = msgspec.json.Decoder(tuple[int, ...])


class MessageRepository(Repository):
    async def insert(self, connection: AsyncConnection, items: Sequence[Outgoing]) -> None:
        """写下各条消息与它们的收件人（不得重复）；提交之后它们就已接受（DLV-1）。"""
        if not items:
            return
        if self._database.is_sqlite:
            for statement, values in self._sqlite_inserts(items):
                # 调用者可能接住错误再提交：半条语句不能留下
                plain = statement.replace(_SQLITE_INSERT, "INSERT INTO", 1)
                await connection.exec_driver_sql(plain, values)
            return
        await connection.execute(text(_PG_MESSAGES), _pg_messages(items))
        rows = _recipient_rows(items)
        while chunk := list(islice(rows, _CHUNK_ROWS)):
            await connection.execute(text(_PG_RECIPIENTS), _pg_recipients(chunk))
        events = self._database.events
        if ACCEPTED in events.wanted:
            told = [accepted_item(one) for one in items]
            await events.add(connection, ACCEPTED, told, items[0].message.timestamp)

    async def store(self, items: Sequence[Outgoing], claims: Sequence[Claim] = ()) -> bool:
        """``insert``，自成一个事务，连同占下 ``claims``；有一个已被占则 False，什么都没有写。"""
        events = self._database.events
        told = ACCEPTED in events.wanted
        if self._database.is_sqlite:
            first = [sqlite_claim(claims)] if claims else []
            statements = [*first, *self._sqlite_inserts(items)]
            changed = await self._database.write_sqlite(statements, len(claims))
            if told:
                events.wake()
            return not claims or changed[0] == len(claims)
        try:
            if sum(len(item.recipient_ids) for item in items) <= _CHUNK_ROWS:
                await self._store_at_once(items, claims)
            else:
                await self._store_in_chunks(items, claims)
        except _TakenError:
            return False
        if told:
            events.wake()
        return True

    async def _store_at_once(self, items: Sequence[Outgoing], claims: Sequence[Claim]) -> None:
        given = {
            **pg_claimed(claims),
            **_pg_messages(items),
            **_pg_recipients(list(_recipient_rows(items))),
            "claimed": len(claims),
        }
        statement, events = _PG_STORE, self._database.events
        if ACCEPTED in events.wanted:
            statement, told = _PG_STORE_TOLD, [accepted_item(one) for one in items]
            given |= events.values(ACCEPTED, told, items[0].message.timestamp)
        async with self._database.alone() as connection:
            try:
                await connection.execute(statement, given)
            except DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) == _DIVIDED_BY_ZERO:
                    raise _TakenError from None
                raise

    async def _store_in_chunks(self, items: Sequence[Outgoing], claims: Sequence[Claim]) -> None:
        async with self._database.transaction() as connection:
            if claims:
                claimed = await connection.execute(text(PG_CLAIM), pg_claimed(claims))
                if claimed.rowcount < len(claims):
                    raise _TakenError
            await self.insert(connection, items)

    async def mark_enqueued(self, message_ids: Sequence[str], now: int) -> None:
        """移出 outbox：队列已收下它们。幂等。"""
        if not message_ids:
            return
        if self._database.is_sqlite:
            listed = msgspec.json.encode(message_ids).decode()
            await self._database.write_sqlite([(_SQLITE_ENQUEUED, (now, listed))], patient=True)
            return
        statement = (
            update(messages)
            .where(
                among(self._database, messages.c.message_id, message_ids),
                messages.c.enqueued_at.is_(None),
            )
            .values(enqueued_at=now)
        )
        await self._database.change(statement)

    async def outbox(self, before_ms: int, limit: int, skip: Sequence[int] = ()) -> list[Outgoing]:
        """``before_ms`` 之前接受、还没入队的消息，最早的在前，各带仍 pending 的收件人。

        ``skip``：不看这些发送者（``Message.account``）的。

        没有这样的收件人也会列出（空元组），好让调用者把它移出 outbox。
        几个进程会读到同一条：入队是至少一次。读不懂的行在这里就移出（``set_aside``），一整页都
        读不懂就看下一页。
        """
        statement = (
            select(*MESSAGE_COLUMNS)
            .where(messages.c.enqueued_at.is_(None), messages.c.created_at < before_ms)
            .order_by(messages.c.message_id)
            .limit(limit)
        )
        if skip:
            statement = statement.where(_ACCOUNT.not_in(skip))
        while True:
            async with self._database.connect() as connection:
                found, unreadable = readable(await connection.execute(statement))
                pending = await self._pending(connection, [one.message_id for one in found])
            await self.set_aside(unreadable, UNREADABLE, before_ms)
            if found or not unreadable:
                return [Outgoing(one, pending.get(one.message_id, ())) for one in found]

    async def set_aside(self, message_ids: Sequence[str], reason: str, now: int) -> None:
        """永远送不了的：收件人记为失败，移出 outbox，别的才轮得到。幂等。"""
        if not message_ids:
            return
        of = message_recipients.c
        failed = (
            update(message_recipients)
            .where(
                among(self._database, of.message_id, message_ids),
                of.status == DeliveryStatus.PENDING,
            )
            .values(
                status=DeliveryStatus.FAILED,
                failed_at=now,
                failure_reason=reason,
                failure_cause=cause_of(reason),
            )
        )
        out = (
            update(messages)
            .where(among(self._database, messages.c.message_id, message_ids))
            .values(enqueued_at=now)
        )
        async with self._database.transaction() as connection:
            rows = await connection.execute(failed.returning(*failed_columns()))
            await self._database.events.add(connection, FAILED, [*map(tuple, rows)], now)
            await connection.execute(out)
        self._database.events.wake()

    async def get(self, message_id: str) -> Message | None:
        return (await self.messages([message_id])).get(message_id)

    async def messages(self, message_ids: Sequence[str]) -> dict[str, Message]:
        """id → 消息；不存在的略去。"""
        statement = select(*MESSAGE_COLUMNS).where(
            among(self._database, messages.c.message_id, message_ids)
        )
        async with self._database.connect() as connection:
            found, _ = readable(await connection.execute(statement))
        return {message.message_id: message for message in found}

    def _sqlite_inserts(self, items: Sequence[Outgoing]) -> Iterator[Statement]:
        yield from _sqlite_inserts(items)
        events = self._database.events
        if ACCEPTED in events.wanted:
            told = [accepted_item(one) for one in items]
            yield from events.statements(ACCEPTED, told, items[0].message.timestamp)

    async def _pending(
        self, connection: AsyncConnection, message_ids: Sequence[str]
    ) -> dict[str, tuple[int, ...]]:
        """由数据库聚成数组：一万个收件人是一个值，而不是一万个行对象。"""
        if not message_ids:
            return {}
        user_id = message_recipients.c.user_id
        gather = func.json_group_array if self._database.is_sqlite else func.array_agg
        statement = (
            select(message_recipients.c.message_id, gather(user_id))
            .where(
                among(self._database, message_recipients.c.message_id, message_ids),
                message_recipients.c.status == DeliveryStatus.PENDING,
            )
            .group_by(message_recipients.c.message_id)
        )
        rows = (await connection.execute(statement)).all()
        if self._database.is_sqlite:
            return {message_id: _IDS.decode(user_ids) for message_id, user_ids in rows}
        return {message_id: tuple(user_ids) for message_id, user_ids in rows}


def _recipient_rows(
    items: Sequence[Outgoing],
) -> Iterator[tuple[str, int, int | None]]:
    for item in items:
        message = item.message
        for user_id in item.recipient_ids:
            yield message.message_id, user_id, message.deliver_at


def _pg_messages(items: Sequence[Outgoing]) -> dict[str, object]:
    """``_PG_MESSAGES`` 的参数：各列一个数组。"""
    rows = [_row(item.message, len(item.recipient_ids)) for item in items]
    return dict(zip(_COLUMNS, map(list, zip(*rows, strict=True)), strict=True))


def _pg_recipients(rows: Sequence[tuple[str, int, int | None]]) -> dict[str, object]:
    # 列表：调用者的驱动不一定把元组当数组
    message_ids, user_ids, due = map(list, zip(*rows, strict=True)) if rows else ([], [], [])
    return {"message_ids": message_ids, "user_ids": user_ids, "due": due}


def _row(message: Message, recipient_count: int) -> tuple[Any, ...]:
    """``_COLUMNS`` 的值。"""
    data = message.data
    return (
        *(message.message_id, message.message_type, message.priority),
        *(message.title, message.content, message.sender_id, message.sender.name),
        *(message.timestamp, message.expires_at, message.deliver_at),
        None if data is None else msgspec.json.encode(data).decode(),
        *(message.receipt, recipient_count, message.key_id),
    )


def values_of(message: Message, recipient_count: int) -> dict[str, object]:
    """``messages`` 的一行。"""
    return dict(zip(_COLUMNS, _row(message, recipient_count), strict=True))


def _sqlite_inserts(items: Sequence[Outgoing]) -> Iterator[Statement]:
    for start in range(0, len(items), _STATEMENT_MESSAGES):
        part = items[start : start + _STATEMENT_MESSAGES]
        values: list[Any] = []
        by_due: defaultdict[int | None, dict[str, list[int]]] = defaultdict(dict)
        for item in part:
            message, recipients = item.message, item.recipient_ids
            values += _row(message, len(recipients))
            by_due[message.deliver_at][message.message_id] = list(recipients)
        yield _sqlite_messages(len(part)), tuple(values)
        for due, each in by_due.items():
            yield _SQLITE_RECIPIENTS, (msgspec.json.encode(each).decode(), due)


@cache
def _sqlite_messages(rows: int) -> str:
    row = f"({', '.join('?' * len(_COLUMNS))})"
    listed = ", ".join([row] * rows)
    return f"{_SQLITE_INSERT} mp_messages ({', '.join(_COLUMNS)}) VALUES {listed}"


class _TakenError(Exception):
    """回滚：有一个键已被占。"""


# ── 正文：从记录重新做出来 ───────────────────────────────────────────────────


class StoredBodies:
    """实现 ``contracts.BodySource``。"""

    def __init__(self, messages: MessageRepository) -> None:
        self._messages = messages

    async def tails(self, message_ids: Sequence[str]) -> dict[str, bytes]:
        found = await self._messages.messages(message_ids)
        return {message_id: encode_tail(message) for message_id, message in found.items()}
