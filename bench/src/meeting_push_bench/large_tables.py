"""一张大表：同样多的行一个人，人多少随表的大小；多半已送达，最近的有没有结局的。由 SQL 成批造。"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, Final

from ulid import ULID

from meeting_push.storage.database import Database
from meeting_push.storage.inbox import InboxRepository, SentRepository
from meeting_push.storage.inbox_pages import InboxFilter
from meeting_push.storage.messages import MessageRepository
from meeting_push.storage.outcomes import (
    OutcomeRepository,
    UndeliveredRepository,
    oldest_possible,
)
from meeting_push.storage.recipients import DeliveryReports, RecipientRepository
from meeting_push.storage.retention import RetentionRepository

DAY_MS: Final = 86_400_000
#: 每条消息、每个人各有几行。
EACH: Final = 10
PER_USER: Final = 200
#: 从最早的到此刻。
SPAN_MS: Final = 170 * DAY_MS
TTL_MS: Final = 7 * DAY_MS
HORIZON_MS: Final = 400 * DAY_MS
FILL_TIMEOUT_S: Final = 7_200

_BASE32: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_TABLES: Final = ("mp_messages", "mp_message_recipients")
_SQLITE_INDEXES: Final = (
    "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
    " AND tbl_name IN ('mp_messages', 'mp_message_recipients')"
)
#: 主键的留着：消息按时间来，总是写在末尾。
_POSTGRES_INDEXES: Final = (
    "SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index"
    " WHERE NOT indisprimary"
    " AND indrelid IN ('mp_messages'::regclass, 'mp_message_recipients'::regclass)"
)
#: 一条消息的第 ``e`` 个收件人；``n``、``at``、``live`` 是消息的。
_RECIPIENTS: Final = """
    INSERT INTO mp_message_recipients (message_id, user_id, status, attempts, sent_at,
        delivered_at, failed_at, failure_reason, expired_at, read_at)
    SELECT message_id, user_id, status, CASE status WHEN 'failed' THEN 3 ELSE 0 END,
        CASE status WHEN 'delivered' THEN at + 10 END,
        CASE status WHEN 'delivered' THEN at + 200 END,
        CASE status WHEN 'failed' THEN at + 900000 END,
        CASE status WHEN 'failed' THEN 'no_ack' END,
        CASE status WHEN 'expired' THEN at + {ttl} END,
        CASE WHEN status = 'delivered' AND kind % 3 <> 0 THEN at + 60000 END
    FROM (
        SELECT m.message_id, m.created_at AS at, n + e AS kind,
            1 + (n % {users} + {apart} * e) % {users} AS user_id,
            CASE WHEN (n + e) % 50 = 0 THEN 'failed'
                WHEN (n + e) % 50 = 1 AND m.expired_at IS NOT NULL THEN 'expired'
                WHEN (n + e) % 20 = 2 AND m.expired_at IS NULL THEN 'pending'
                ELSE 'delivered' END AS status
        FROM (SELECT *, (created_at - {first}) / {step} AS n FROM mp_messages) AS m
        CROSS JOIN ({each}) AS others
    ) AS made"""
_MESSAGES: Final = """
    INSERT INTO mp_messages (message_id, sender_id, sender_name, message_type, priority, title,
        content, receipt, created_at, expires_at, enqueued_at, expired_at, recipient_count)
    SELECT {message_id}, 1, 'ann', 'message', n % 10, '标题', '{content}', FALSE, at,
        at + {ttl}, at + 5, CASE WHEN at + {ttl} < {now} THEN at + {ttl} END, {per_message}
    FROM (SELECT n, {first} + n * {step} AS at FROM ({numbers}) AS counted) AS numbered"""

_RECURSIVE: Final = """WITH RECURSIVE counting({name}) AS (
    SELECT 0 UNION ALL SELECT {name} + 1 FROM counting WHERE {name} < {last}
    ) SELECT {name} FROM counting"""


class LargeTables:
    """``rows``：收件人的行数；``now``：此刻，毫秒。"""

    def __init__(self, rows: int, now: int) -> None:
        self.rows, self.now = rows, now
        self.users = max(EACH, rows // PER_USER)
        self.messages = rows // EACH
        self._step = SPAN_MS // self.messages
        self._first = now - SPAN_MS

    def message_id(self, number: int) -> str:
        at = (self._first + number * self._step).to_bytes(6, "big")
        return str(ULID.from_bytes(at + number.to_bytes(10, "big")))

    async def fill(self, database: Database) -> None:
        """表是空的。索引先拿掉、最后再建：散着一行行插进去，两千万行要几个小时。"""
        if database.is_sqlite:
            await asyncio.to_thread(self._fill_sqlite, database.file)
        else:
            await self._fill_postgres(database)

    def _fill_sqlite(self, path: Path) -> None:
        with closing(sqlite3.connect(path)) as connection:
            for pragma in ("synchronous=OFF", "cache_size=-500000"):
                connection.execute(f"PRAGMA {pragma}")
            indexes = connection.execute(_SQLITE_INDEXES).fetchall()
            for name, _ in indexes:
                connection.execute(f"DROP INDEX {name}")
            for statement in self._statements(_recursive):
                connection.execute(statement)
            for _, statement in indexes:
                connection.execute(statement)
            connection.commit()
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    async def _fill_postgres(self, database: Database) -> None:
        async with _driver(database) as execute:
            await execute("SET maintenance_work_mem = '1GB'; SET synchronous_commit = off")
            indexes = await execute(_POSTGRES_INDEXES)
            for name, _ in indexes:
                await execute(f"DROP INDEX {name}")
            for statement in self._statements(_series):
                await execute(statement)
            for _, statement in indexes:
                await execute(statement)
            for table in _TABLES:
                await execute(f"VACUUM (ANALYZE) {table}")
            await execute("CHECKPOINT")

    def _statements(self, numbers: Callable[[int, str], str]) -> Iterator[str]:
        """``numbers(last, name)``：0…last 的一列。"""
        shared = {"first": self._first, "step": self._step, "ttl": TTL_MS, "now": self.now}
        yield _MESSAGES.format(
            numbers=numbers(self.messages - 1, "n"),
            message_id=_ulid("at", "n"),
            content="c" * 100,
            per_message=EACH,
            **shared,
        )
        # 一条消息的十个人隔得远：收件箱的索引是散着写的
        apart = max(1, self.users // EACH)
        each = numbers(EACH - 1, "e")
        yield _RECIPIENTS.format(users=self.users, apart=apart, each=each, **shared)


def _series(last: int, name: str) -> str:
    return f"SELECT generate_series(CAST(0 AS bigint), {last}) AS {name}"


def _recursive(last: int, name: str) -> str:
    return _RECURSIVE.format(last=last, name=name)


def _ulid(at: str, number: str) -> str:
    """两种库都懂的：48 位的时刻与 80 位的号，Crockford base32。"""

    def digit(value: str, shift: int) -> str:
        return f"substr('{_BASE32}', CAST((({value}) >> {shift}) & 31 AS INTEGER) + 1, 1)"

    digits = [digit(at, 5 * place) for place in range(9, -1, -1)]
    digits += ["'000000000'", *(digit(number, 5 * place) for place in range(6, -1, -1))]
    return " || ".join(digits)


@asynccontextmanager
async def _driver(database: Database) -> AsyncIterator[Callable[[str], Awaitable[list[Any]]]]:
    """不在事务里，不受一句的时限。"""
    async with database.connect() as connection:
        raw: Any = (await connection.get_raw_connection()).driver_connection

        async def execute(statement: str) -> list[Any]:
            if statement.startswith("SELECT"):
                return list(await raw.fetch(statement, timeout=FILL_TIMEOUT_S))
            await raw.execute(statement, timeout=FILL_TIMEOUT_S)
            return []

        yield execute


async def empty(database: Database) -> None:
    """把造的都拿走（PostgreSQL；SQLite 的是一个文件）。"""
    async with _driver(database) as execute:
        await execute(f"TRUNCATE {', '.join(_TABLES)}")


def paths(database: Database, tables: LargeTables) -> dict[str, Callable[[], Awaitable[object]]]:
    """各条路，各做一遍。"""
    now, user = tables.now, tables.users // 2
    inbox, sent = InboxRepository(database), SentRepository(database)
    reports, recipients = DeliveryReports(database), RecipientRepository(database)
    outcomes, undelivered = OutcomeRepository(database), UndeliveredRepository(database)
    retention, messages = RetentionRepository(database), MessageRepository(database)
    one = tables.message_id(tables.messages // 2)
    start = oldest_possible(now, HORIZON_MS)
    # 一页 50 条消息，都还没有过期
    recent, recent_end = (tables.message_id(tables.messages - back) for back in (60, 10))
    return {
        "inbox page": lambda: inbox.page(user, limit=50),
        "inbox page, unread": lambda: inbox.page(user, InboxFilter(unread=True), limit=50),
        "inbox page, of a type he has none of": lambda: inbox.page(
            user, InboxFilter(message_type="system"), limit=50
        ),
        "inbox page, a text he has not": lambda: inbox.page(user, InboxFilter(text="@"), limit=50),
        "sent page": lambda: sent.page(user, one, 50),
        "sent page of a key": lambda: sent.page(-user, None, 50),
        "unread count": lambda: inbox.unread_count(user),
        "a person's statistics, 30 days": lambda: reports.outcomes(user, now - 30 * DAY_MS, DAY_MS),
        "a person's newest": lambda: reports.recent(user, 20),
        "counts of a message": lambda: recipients.counts(one),
        "delivery state of a message": lambda: recipients.page(one),
        "list of failures": lambda: reports.failures(None, 100),
        "failures of an hour": lambda: reports.undelivered(now - 3_600_000),
        "sweep: expired": lambda: outcomes.expirable(now, 500),
        "sweep: outbox": lambda: messages.outbox(now, 100),
        "reconciler: end of a page": lambda: undelivered.page_end(start, 500),
        "reconciler: undelivered of a page": lambda: undelivered.waiting(
            (recent, 0), recent_end, (0, now), now, 1_000
        ),
        "reconciler: a page to the outbox": lambda: undelivered.reopen(
            start, tables.message_id(100), now
        ),
        "retention: a page": lambda: retention.page("", now - 90 * DAY_MS, now, 100),
    }
