"""旁观者的两条通道：不经过链路直接连 Redis 与数据库，随运行开合。

``Sql`` 不经过产品的查询，免得被查的与查的一起错；只用驱动自己的写法，两种库各一份。
``Stored`` 直接读 Redis：信箱、日志、两条队列、延迟集合、死信，不经过产品的服务。
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from meeting_push.errors import RedisUnavailableError
from meeting_push.redis.cluster import lean_connection
from meeting_push.redis.dial import RedisAddress
from meeting_push.redis.keys import Keys, QueueKeys
from meeting_push.redis.lean import LeanConnection
from meeting_push.storage.database import Database

from .final_state import Mailbox, MessageRow, Queued, RecipientRow
from .history import now_ms
from .schedule import LATER_MS
from .town import Town

#: 广播没有收件人，另算（``rules/broadcasts.py``）。
_MESSAGES = (
    "SELECT message_id, sender_id, title, priority, enqueued_at IS NULL FROM mp_messages"
    " WHERE message_id NOT IN (SELECT message_id FROM mp_broadcasts)"
)
_RECIPIENTS = "SELECT message_id, user_id, status, delivered_at FROM mp_message_recipients"
_OUTBOX = (
    "SELECT count(*) FROM mp_messages WHERE enqueued_at IS NULL"
    " AND message_id NOT IN (SELECT message_id FROM mp_broadcasts)"
)
_PENDING_SQLITE = (
    "SELECT message_id FROM mp_message_recipients WHERE user_id = ? AND status = 'pending'"
    " AND message_id IN (SELECT value FROM json_each(?))"
)
_PENDING_PG = (
    "SELECT message_id FROM mp_message_recipients WHERE user_id = $1 AND status = 'pending'"
    " AND message_id IN (SELECT jsonb_array_elements_text($2::jsonb))"
)
_PENDING_COUNT = "SELECT count(*) FROM mp_message_recipients WHERE status = 'pending'"


class Sql:
    """库归这一次运行独用。"""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def pending(self, user_id: int, message_ids: Sequence[str]) -> set[str]:
        """``message_ids`` 里对这个用户仍是 pending 的。"""
        statement = _PENDING_SQLITE if self._database.is_sqlite else _PENDING_PG
        ids = msgspec.json.encode(message_ids).decode()
        async with self._database.connect() as connection:
            rows = await connection.exec_driver_sql(statement, (user_id, ids))
            return {row[0] for row in rows}

    async def outbox_and_pending(self) -> tuple[int, int]:
        async with self._database.connect() as connection:
            outbox = (await connection.exec_driver_sql(_OUTBOX)).scalar_one()
            pending = (await connection.exec_driver_sql(_PENDING_COUNT)).scalar_one()
            return int(outbox), int(pending)

    async def messages(self) -> tuple[MessageRow, ...]:
        async with self._database.connect() as connection:
            rows: Sequence[Any] = (await connection.exec_driver_sql(_MESSAGES)).all()
        return tuple(
            MessageRow(message_id, sender_id, title, priority, bool(outbox))
            for message_id, sender_id, title, priority, outbox in rows
        )

    async def recipients(self) -> tuple[RecipientRow, ...]:
        async with self._database.connect() as connection:
            rows: Sequence[Any] = (await connection.exec_driver_sql(_RECIPIENTS)).all()
        return tuple(
            RecipientRow(message_id, user_id, status, delivered_at)
            for message_id, user_id, status, delivered_at in rows
        )


class _Entry(msgspec.Struct):
    message_id: str
    recipient_ids: tuple[int, ...]


_RETRY_S: Final = 0.1

_decoder = msgspec.json.Decoder(_Entry)


class Stored:
    """``partitions``：队列分几份。"""

    def __init__(self, lean: LeanConnection, partitions: int = 1) -> None:
        self._lean = lean
        self._keys = Keys(tagged=bool(lean.tags))
        self._queues = QueueKeys.of(self._keys, partitions)

    def seq_key(self, user_id: int) -> str:
        return self._keys.user_seq(user_id)

    async def absent(self, user_id: int, message_ids: Sequence[str]) -> list[str]:
        """``message_ids`` 里已不在这个用户的信箱的。"""
        scores = await self._lean.execute("ZMSCORE", self._keys.mailbox(user_id), *message_ids)
        return [i for i, score in zip(message_ids, scores, strict=True) if score is None]

    async def mailbox(self, user_id: int) -> Mailbox:
        epoch, entries, log = await self._lean.execute_many(
            [
                ("HGET", self._keys.user_seq(user_id), "epoch"),
                ("ZRANGE", self._keys.mailbox(user_id), 0, -1, "WITHSCORES"),
                ("ZRANGE", self._keys.message_log(user_id), 0, -1, "WITHSCORES"),
            ]
        )
        return Mailbox(user_id, (epoch or b"").decode(), _pairs(entries), _pairs(log))

    async def kick_subscribers(self) -> None:
        """掐断此刻全部的订阅连接；Redis 刚重启就等到连上。"""
        while True:
            try:
                await self._lean.everywhere("CLIENT", "KILL", "TYPE", "pubsub")
            except RedisUnavailableError:
                await asyncio.sleep(_RETRY_S)
            else:
                return

    async def moving(self) -> int:
        """还会动的条目：在三条流里的，与快到期的。"""
        soon = now_ms() + LATER_MS
        lengths = [("XLEN", stream) for queue in self._queues for stream in queue.streams]
        due = [("ZCOUNT", key, "-inf", soon) for key in self._delays]
        return sum(await self._lean.execute_many([*lengths, *due]))

    async def queued(self) -> tuple[Queued, ...]:
        """流里的（取走而未确认的也在内）与延迟集合里的。"""
        streams = [
            entry
            for queue in self._queues
            for stream in queue.streams
            for entry in await self._stream(stream)
        ]
        return (*streams, *await self._delayed())

    @property
    def _delays(self) -> list[str]:
        return [key for queue in self._queues for key in (queue.delayed, queue.delayed_bulk)]

    async def delayed_pairs(self) -> int:
        """延迟集合里有几个不同的（消息，收件人）；重复入队无害。"""
        entries = await self._delayed()
        return len({(e.message_id, user_id) for e in entries for user_id in e.recipients})

    async def dead(self) -> tuple[Queued, ...]:
        queues = {self._keys.dead_letter_queue, *(each.dead_letter for each in self._queues)}
        return tuple([entry for queue in sorted(queues) for entry in await self._stream(queue)])

    async def _delayed(self) -> list[Queued]:
        found = []
        for key in self._delays:
            members = await self._lean.execute("ZRANGE", key, 0, -1)
            # 成员 = 一个优先级数字 + 条目的 JSON
            found += [_queued(key, member[1:]) for member in members]
        return found

    async def _stream(self, queue: str) -> list[Queued]:
        return list(_stream(queue, await self._lean.execute("XRANGE", queue, "-", "+")))


def _stream(queue: str, entries: Sequence[Any]) -> Iterator[Queued]:
    for _, fields in entries:
        yield _queued(queue, dict(zip(fields[::2], fields[1::2], strict=True))[b"entry"])


def _queued(queue: str, raw: bytes) -> Queued:
    entry = _decoder.decode(raw)
    return Queued(queue, entry.message_id, entry.recipient_ids)


def _pairs(flat: Sequence[bytes]) -> tuple[tuple[str, int], ...]:
    return tuple(
        (member.decode(), int(float(score)))
        for member, score in zip(flat[::2], flat[1::2], strict=True)
    )


@dataclass(frozen=True, slots=True)
class Reading:
    sql: Sql
    stored: Stored


@contextlib.asynccontextmanager
async def open_reading(town: Town) -> AsyncIterator[Reading]:
    """Redis 重启时自己重连；期间的读取得到 ``RedisUnavailableError``。"""
    lean = lean_connection(RedisAddress.parse(town.redis.url), name="chaos-observer")
    database = Database(town.ground.sql_url)
    await lean.connect()
    try:
        yield Reading(Sql(database), Stored(lean, town.partitions))
    finally:
        await lean.close()
        await database.dispose()
