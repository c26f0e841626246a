"""消息与它的 outbox；成组提交：同时到来的接受共用一个事务。"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextvars import Context
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Final

import msgspec
from sqlalchemy import func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ..model import DeliveryStatus, Message, Outgoing, cause_of
from ..protocol.envelope import encode_tail
from ..supervision import is_temporary
from .database import Repository
from .id_list import among
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

#: ``?1`` 是 {message_id: [user_id, …]}，``?2`` 是它们共同的 deliver_at。
_SQLITE_RECIPIENTS: Final = (
    "INSERT INTO message_recipients (message_id, user_id, deliver_at, status, attempts)"
    " SELECT m.key, r.value, ?2, 'pending', 0 FROM json_each(?1) AS m, json_each(m.value) AS r"
)
_SQLITE_ENQUEUED: Final = (
    "UPDATE messages SET enqueued_at = ?"
    " WHERE message_id IN (SELECT value FROM json_each(?)) AND enqueued_at IS NULL"
)
_PG_RECIPIENTS: Final = text(
    "INSERT INTO message_recipients (message_id, user_id, deliver_at, status, attempts)"
    " SELECT m, u, d, 'pending', 0 FROM unnest("
    "CAST(:message_ids AS varchar[]), CAST(:user_ids AS bigint[]), CAST(:due AS bigint[])"
    ") AS v (m, u, d)"
)
_IDS: Final = msgspec.json.Decoder(tuple[int, ...])


class MessageRepository(Repository):
    async def insert(self, connection: AsyncConnection, items: Sequence[Outgoing]) -> None:
        """写下各条消息与它们的收件人（不得重复）；提交之后它们就已接受（DLV-1）。"""
        if not items:
            return
        if self._database.is_sqlite:
            for statement in _sqlite_inserts(items):
                await connection.exec_driver_sql(*statement)
            return
        values = [values_of(item.message, len(item.recipient_ids)) for item in items]
        await connection.execute(insert(messages), values)
        rows = _recipient_rows(items)
        while chunk := list(islice(rows, _CHUNK_ROWS)):
            await self._insert_recipients(connection, chunk)

    async def store(self, items: Sequence[Outgoing]) -> None:
        """``insert``，自成一个事务。"""
        if self._database.is_sqlite:
            await self._database.write_sqlite(list(_sqlite_inserts(items)))
            return
        async with self._database.transaction() as connection:
            await self.insert(connection, items)

    async def mark_enqueued(self, message_ids: Sequence[str], now: int) -> None:
        """移出 outbox：队列已收下它们。幂等。"""
        if not message_ids:
            return
        if self._database.is_sqlite:
            listed = msgspec.json.encode(message_ids).decode()
            await self._database.write_sqlite([(_SQLITE_ENQUEUED, (now, listed))])
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

        ``skip``：不看这些发送者的。

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
            statement = statement.where(messages.c.sender_id.not_in(skip))
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
            await connection.execute(failed)
            await connection.execute(out)

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

    async def _insert_recipients(
        self, connection: AsyncConnection, rows: list[tuple[str, int, int | None]]
    ) -> None:
        message_ids, user_ids, due = zip(*rows, strict=True)
        await connection.execute(
            _PG_RECIPIENTS, {"message_ids": message_ids, "user_ids": user_ids, "due": due}
        )

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


def values_of(message: Message, recipient_count: int) -> dict[str, object]:
    """``messages`` 的一行。"""
    data = message.data
    return {
        "message_id": message.message_id,
        "message_type": message.message_type,
        "priority": message.priority,
        "title": message.title,
        "content": message.content,
        "sender_id": message.sender.id,
        "sender_name": message.sender.name,
        "created_at": message.timestamp,
        "expires_at": message.expires_at,
        "deliver_at": message.deliver_at,
        "data": None if data is None else msgspec.json.encode(data).decode(),
        "receipt": message.receipt,
        "recipient_count": recipient_count,
    }


def _sqlite_inserts(items: Sequence[Outgoing]) -> Iterator[Statement]:
    for start in range(0, len(items), _STATEMENT_MESSAGES):
        part = items[start : start + _STATEMENT_MESSAGES]
        rows = [values_of(item.message, len(item.recipient_ids)) for item in part]
        yield (
            _sqlite_messages(tuple(rows[0]), len(rows)),
            tuple(value for row in rows for value in row.values()),
        )
        by_due: defaultdict[int | None, dict[str, list[int]]] = defaultdict(dict)
        for item in part:
            by_due[item.message.deliver_at][item.message.message_id] = list(item.recipient_ids)
        for due, recipients in by_due.items():
            yield _SQLITE_RECIPIENTS, (msgspec.json.encode(recipients).decode(), due)


@cache
def _sqlite_messages(columns: tuple[str, ...], rows: int) -> str:
    row = f"({', '.join('?' * len(columns))})"
    listed = ", ".join([row] * rows)
    return f"INSERT INTO messages ({', '.join(columns)}) VALUES {listed}"  # noqa: S608 — 只有列名与问号


# ── 成组提交 ───────────────────────────────────────────────────────────────
# 一次提交的代价（加锁、落盘、线程往返）与写一条几乎一样。前一个事务在提交时新来的就排着，下一个事务
# 把它们一起带走：没有人为的等待，越忙每组越大。

#: 一组至多这么多行收件人：事务太长会让别的写者久等。
MAX_ROWS: Final = 5_000


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    outgoing: Sequence[Outgoing]
    rows: int
    done: asyncio.Future[None]


class AcceptBatch:
    """``insert`` 返回即已提交；一个进程一个。"""

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
            self._writer = asyncio.create_task(
                self._write(), name="accept-batch", context=Context()
            )
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


# ── 正文：从记录重新做出来 ───────────────────────────────────────────────────


class StoredBodies:
    """实现 ``contracts.BodySource``。"""

    def __init__(self, messages: MessageRepository) -> None:
        self._messages = messages

    async def tails(self, message_ids: Sequence[str]) -> dict[str, bytes]:
        found = await self._messages.messages(message_ids)
        return {message_id: encode_tail(message) for message_id, message in found.items()}
