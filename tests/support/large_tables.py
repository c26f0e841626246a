"""一张大表：同样多的行一个人，人多少随表的大小；多半已送达，最近的有没有结局的。"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from ulid import ULID

from meeting_push.storage.database import Database
from meeting_push.storage.inbox import InboxRepository
from meeting_push.storage.inbox_pages import InboxFilter
from meeting_push.storage.messages import MessageRepository
from meeting_push.storage.outcomes import (
    OutcomeRepository,
    UndeliveredRepository,
    oldest_possible,
)
from meeting_push.storage.recipients import DeliveryReports, RecipientRepository
from meeting_push.storage.retention import RetentionRepository

DAY_MS = 86_400_000
#: 每条消息、每个人各有几行。
EACH, PER_USER = 10, 200
#: 从最早的到此刻。
SPAN_MS = 170 * DAY_MS
TTL_MS = 7 * DAY_MS
HORIZON_MS = 400 * DAY_MS
FILL_TIMEOUT_S = 3_600
_MESSAGE = (
    *("message_id", "sender_id", "sender_name", "message_type", "priority", "title", "content"),
    *("data", "receipt", "created_at", "expires_at", "deliver_at", "enqueued_at", "expired_at"),
    *("recipient_count", "key_id"),
)
_RECIPIENT = (
    *("message_id", "user_id", "status", "attempts", "sent_at", "delivered_at", "failed_at"),
    *("failure_reason", "expired_at", "read_at"),
)
_INDEXES = (
    "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
    " AND tbl_name IN ('mp_messages', 'mp_message_recipients')"
)
Row = tuple[object, ...]


class LargeTables:
    def __init__(self, rows: int, now: int) -> None:
        self.rows, self.now = rows, now
        self.users = max(EACH, rows // PER_USER)
        self.messages = rows // EACH
        step = SPAN_MS // self.messages
        self._times = [now - SPAN_MS + number * step for number in range(self.messages)]

    def message_id(self, number: int) -> str:
        at = self._times[number].to_bytes(6, "big")
        return str(ULID.from_bytes(at + number.to_bytes(10, "big")))

    def fill_sqlite(self, path: Path) -> None:
        """索引先拿掉、最后再建：散着一行行插进去，两千万行要几个小时。"""
        with closing(sqlite3.connect(path)) as connection:
            for pragma in ("synchronous=OFF", "cache_size=-500000"):
                connection.execute(f"PRAGMA {pragma}")
            indexes = connection.execute(_INDEXES).fetchall()
            for name, _ in indexes:
                connection.execute(f"DROP INDEX {name}")
            for table, columns, rows in self._tables():
                marks = ", ".join("?" * len(columns))
                statement = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})"
                connection.executemany(statement, rows)
            for _, statement in indexes:
                connection.execute(statement)
            connection.commit()
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    async def fill_postgres(self, database: Database) -> None:
        async with database.connect() as connection:
            raw: Any = (await connection.get_raw_connection()).driver_connection
            for table, columns, rows in self._tables():
                await raw.copy_records_to_table(
                    table, records=rows, columns=columns, timeout=FILL_TIMEOUT_S
                )
                await raw.execute(f"VACUUM ANALYZE {table}", timeout=FILL_TIMEOUT_S)

    def _tables(self) -> Iterator[tuple[str, tuple[str, ...], Iterator[Row]]]:
        yield "mp_messages", _MESSAGE, self._message_rows()
        yield "mp_message_recipients", _RECIPIENT, self._recipient_rows()

    def _message_rows(self) -> Iterator[Row]:
        for number, at in enumerate(self._times):
            over = at + TTL_MS if at + TTL_MS < self.now else None
            yield (
                *(self.message_id(number), 1, "ann", "message", number % 10, "标题", "c" * 100),
                *(None, False, at, at + TTL_MS, None, at + 5, over, EACH, None),
            )

    def _recipient_rows(self) -> Iterator[Row]:
        for number, at in enumerate(self._times):
            message_id, live = self.message_id(number), at + TTL_MS > self.now
            # 一条消息的十个人隔得远：收件箱的索引是散着写的
            first, apart = number % self.users, max(1, self.users // EACH)
            users = sorted({1 + (first + apart * each) % self.users for each in range(EACH)})
            for place, user_id in enumerate(users):
                yield self._recipient(message_id, user_id, at, number + place, live=live)

    def _recipient(self, message_id: str, user_id: int, at: int, kind: int, *, live: bool) -> Row:
        head = (message_id, user_id)
        if kind % 50 == 0:
            return (*head, "failed", 3, None, None, at + 900_000, "no_ack", None, None)
        if kind % 50 == 1 and not live:
            return (*head, "expired", 0, None, None, None, None, at + TTL_MS, None)
        if kind % 20 == 2 and live:
            return (*head, "pending", 0, None, None, None, None, None, None)
        read_at = at + 60_000 if kind % 3 else None
        return (*head, "delivered", 0, at + 10, at + 200, None, None, None, read_at)


def paths(database: Database, tables: LargeTables) -> dict[str, Callable[[], Awaitable[object]]]:
    """各条路，各做一遍。"""
    now, user = tables.now, tables.users // 2
    inbox = InboxRepository(database)
    reports, recipients = DeliveryReports(database), RecipientRepository(database)
    outcomes, undelivered = OutcomeRepository(database), UndeliveredRepository(database)
    retention, messages = RetentionRepository(database), MessageRepository(database)
    one = tables.message_id(tables.messages // 2)
    start = oldest_possible(now, HORIZON_MS)
    # 一页 50 条消息，都还没有过期
    recent, recent_end = (tables.message_id(tables.messages - back) for back in (60, 10))
    return {
        "收件箱的一页": lambda: inbox.page(user, limit=50),
        "只看未读的一页": lambda: inbox.page(user, InboxFilter(unread=True), limit=50),
        "未读数": lambda: inbox.unread_count(user),
        "一个人的统计（30 天）": lambda: reports.outcomes(user, now - 30 * DAY_MS, DAY_MS),
        "一个人的最近几条": lambda: reports.recent(user, 20),
        "一条消息的计数": lambda: recipients.counts(one),
        "一条消息的投递状态": lambda: recipients.page(one),
        "失败的清单": lambda: reports.failures(None, 100),
        "一小时的失败": lambda: reports.undelivered(now - 3_600_000),
        "过期清理的一页": lambda: outcomes.expirable(now, 500),
        "发件箱": lambda: messages.outbox(now, 100),
        "对账：一页的尽头": lambda: undelivered.page_end(start, 500),
        "对账：一页里没有送达的": lambda: undelivered.waiting(
            (recent, 0), recent_end, (0, now), now, 1_000
        ),
        "对账：一页放回发件箱": lambda: undelivered.reopen(start, tables.message_id(100), now),
        "旧消息的一页": lambda: retention.page("", now - 90 * DAY_MS, now, 100),
    }
