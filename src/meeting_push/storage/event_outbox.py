"""出门的事件写下的一头：与它说的那件事同一个事务，所以哪一刻被杀都一件不少。

一次提交里的同一种事件合成一行（至多 ``ROW_EVENTS`` 个），每个要它的接收者一行：热路上一个事件摊到的
不到一行。谁也不要的一种，一次字典查找之后什么也不做。

一行的 ``items`` 是 JSON 数组，一项是一个事件的各个值，次序见 ``FIELDS``；头一个值是它说的那一样
（消息、人、告警）的 id，同一样的照次序出门。
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Column, text
from sqlalchemy.ext.asyncio import AsyncConnection
from ulid import ULID

from ..model import Outgoing
from .sqlite import Statement
from .tables import message_recipients

#: 一行、也就是一次 POST，至多这么多个事件。
ROW_EVENTS: Final = 100

ACCEPTED: Final = "message.accepted"
DELIVERED: Final = "message.delivered"
READ: Final = "message.read"
FAILED: Final = "message.failed"
EXPIRED: Final = "message.expired"
WITHDRAWN: Final = "message.withdrawn"
USER_ONLINE: Final = "user.online"
USER_OFFLINE: Final = "user.offline"
ALERT_FIRING: Final = "alert.firing"
ALERT_RESOLVED: Final = "alert.resolved"

_ALERT: Final = (
    *("alert_id", "rule", "severity", "summary", "labels", "value", "threshold"),
    *("started_at", "resolved_at", "runbook"),
)
#: 各种事件的 ``data`` 里有什么。只许在末尾添：写下的还没有送走，程序就可能换了新的。
FIELDS: Final[dict[str, tuple[str, ...]]] = {
    ACCEPTED: (
        *("message_id", "sender_id", "sender_name", "message_type", "priority"),
        *("recipient_count", "created_at", "deliver_at", "expires_at"),
    ),
    DELIVERED: ("message_id", "user_id", "sent_at", "delivered_at"),
    READ: ("message_id", "user_id", "read_at"),
    FAILED: ("message_id", "user_id", "failed_at", "reason", "cause"),
    EXPIRED: ("message_id", "user_id", "expired_at", "cause"),
    WITHDRAWN: ("message_id", "sender_id", "withdrawn_at", "withdrawn", "delivered"),
    USER_ONLINE: ("user_id", "at"),
    USER_OFFLINE: ("user_id", "at"),
    ALERT_FIRING: _ALERT,
    ALERT_RESOLVED: _ALERT,
}

_INTO: Final = (
    "INSERT INTO mp_events_out (receiver, batch_id, first_event, kind, items, event_count,"
    " created_at, since, attempts, next_at, aside) SELECT "
)
#: ``?1`` 接收者的 JSON 数组，``?2`` 批，``?3`` 种类，``?4`` 时刻，``?5`` 各项，``?6`` 排第几，
#: ``?7`` 几个。
_SQLITE_ADD: Final = _INTO + "value, ?2, ?6, ?3, ?5, ?7, ?4, ?4, 0, 0, FALSE FROM json_each(?1)"
#: 各份一个来回；值见 ``EventOutbox.values``。
PG_ADD: Final = (
    _INTO + "q, :event_batch, v.first, :event_kind, v.items, v.found,"
    " :event_at, :event_at, 0, 0, FALSE FROM unnest(CAST(:event_firsts AS integer[]),"
    " CAST(:event_items AS text[]), CAST(:event_counts AS integer[])) AS v (first, items, found),"
    " unnest(CAST(:event_receivers AS varchar[])) AS q"
)
_PG_ADD: Final = text(PG_ADD)
#: 把 ``?5`` 里此刻还没有记为送达的写成一行；在记下之前执行，所以恰是将要变的那些。
_SQLITE_DELIVERED: Final = (
    _INTO  # noqa: S608 — 只有常量
    + "q.value, ?2, 0, ?3, b.items, b.found, ?4, ?4, 0, 0, FALSE FROM ("
    "SELECT json_group_array(json(v.value)) AS items, count(*) AS found"
    " FROM json_each(?5) AS v CROSS JOIN mp_message_recipients AS r"
    " WHERE r.message_id = json_extract(v.value, '$[0]')"
    " AND r.user_id = json_extract(v.value, '$[1]') AND r.status = 'pending') AS b,"
    " json_each(?1) AS q WHERE b.found > 0"
)
_SQLITE_LATE: Final = _SQLITE_DELIVERED.replace("= 'pending'", "IN ('failed', 'expired')")


def pg_told(update: str) -> str:
    """``update`` 连同它改了的各行的送达事件，一条语句，答改了几行；值见 ``EventOutbox.told``。"""
    columns = "message_id, user_id, sent_at, delivered_at"
    returning = ", ".join(f"r.{name}" for name in columns.split(", "))
    return (
        f"WITH d AS ({update} RETURNING {returning}),"  # noqa: S608 — 只有常量
        " n AS (SELECT d.*, row_number() OVER () - 1 AS place FROM d),"
        f" p AS (SELECT place / {ROW_EVENTS} * {ROW_EVENTS} AS first, count(*) AS found,"
        f" CAST(json_agg(json_build_array({columns})) AS text) AS items FROM n GROUP BY 1),"
        f" e AS ({_INTO} q, :event_batch, p.first, :event_kind, p.items, p.found,"
        " :event_at, :event_at, 0, 0, FALSE"
        " FROM p, unnest(CAST(:event_receivers AS varchar[])) AS q) SELECT count(*) FROM d"
    )


#: 一个事件的各个值，见 ``FIELDS``。
Item = Sequence[Any]


class EventOutbox:
    """``subscribe`` 在第一件事之前。写的人在提交之后叫 ``wake``：不叫也会被看见，晚半秒。"""

    def __init__(self, *, is_sqlite: bool) -> None:
        self._is_sqlite = is_sqlite
        #: 种类 → 要它的接收者；没有人要的不在其中。
        self.wanted: dict[str, list[str]] = {}
        self._wakers: list[Callable[[], None]] = []
        #: 写下了几行，只增。
        self.rows = 0

    def subscribe(self, receiver: str, kinds: Sequence[str], wake: Callable[[], None]) -> None:
        for kind in kinds:
            self.wanted.setdefault(kind, []).append(receiver)
        self._wakers.append(wake)

    def wake(self) -> None:
        for wake in self._wakers:
            wake()

    async def add(
        self, connection: AsyncConnection, kind: str, items: Sequence[Item], now: int
    ) -> None:
        """在 ``connection`` 的事务里写下；没有人要、没有东西则无事。"""
        if not items or kind not in self.wanted:
            return
        if self._is_sqlite:
            for statement in self.statements(kind, items, now):
                await connection.exec_driver_sql(*statement)
            return
        await connection.execute(_PG_ADD, self.values(kind, items, now))

    def values(self, kind: str, items: Sequence[Item], now: int) -> dict[str, object]:
        """``PG_ADD`` 的值。"""
        parts = _parts(items)
        self.rows += len(parts)
        return {
            **self._about(kind, now),
            "event_firsts": [first for first, _ in parts],
            "event_items": [msgspec.json.encode(part).decode() for _, part in parts],
            "event_counts": [len(part) for _, part in parts],
        }

    def told(self, kind: str, now: int) -> dict[str, object]:
        """``pg_told`` 的值。"""
        self.rows += 1
        return self._about(kind, now)

    def _about(self, kind: str, now: int) -> dict[str, object]:
        return {
            "event_receivers": self.wanted[kind],
            "event_batch": str(ULID()),
            "event_kind": kind,
            "event_at": now,
        }

    def statements(self, kind: str, items: Sequence[Item], now: int) -> list[Statement]:
        """同 ``add``，SQLite 的热路：接在那件事的语句后面。"""
        if not items or kind not in self.wanted:
            return []
        listed, batch_id = self._listed(kind), str(ULID())
        found: list[Statement] = []
        for first, part in _parts(items):
            written = msgspec.json.encode(part).decode()
            values = (listed, batch_id, kind, now, written, first, len(part))
            found.append((_SQLITE_ADD, values))
        self.rows += len(found)
        return found

    def delivered(self, rows: Sequence[Item], now: int, *, late: bool = False) -> list[Statement]:
        """SQLite 的热路：接在记下送达的语句**前面**；``late``：先前失败、过期了的。有人要才问。"""
        statement, listed = _SQLITE_LATE if late else _SQLITE_DELIVERED, self._listed(DELIVERED)
        found: list[Statement] = []
        for _, part in _parts(rows):
            given = msgspec.json.encode(part).decode()
            found.append((statement, (listed, str(ULID()), DELIVERED, now, given)))
        self.rows += len(found)
        return found

    def _listed(self, kind: str) -> str:
        return msgspec.json.encode(self.wanted[kind]).decode()


def accepted_item(one: Outgoing) -> Item:
    message = one.message
    return (
        message.message_id,
        message.sender.id,
        message.sender.name,
        message.message_type,
        message.priority,
        len(one.recipient_ids) or None,  # 发给所有人的：多少人不得而知
        message.timestamp,
        message.deliver_at,
        message.expires_at,
    )


def failed_columns() -> tuple[Column[Any], ...]:
    """一个失败的收件人，``FIELDS`` 里的次序。"""
    of = message_recipients.c
    return of.message_id, of.user_id, of.failed_at, of.failure_reason, of.failure_cause


def _parts(items: Sequence[Item]) -> list[tuple[int, Sequence[Item]]]:
    return [
        (start, items[start : start + ROW_EVENTS]) for start in range(0, len(items), ROW_EVENTS)
    ]
