"""出门的事件的两张表；其余的见 ``tables``。"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    text,
)

from .columns import metadata, serial

# 出门的事件：一行是一份（一次 POST），与它说的那件事在同一个事务里写下；了结了就删掉。
events_out = Table(
    "mp_events_out",
    metadata,
    Column("id", serial, primary_key=True),
    Column("receiver", String(64), nullable=False),
    Column("batch_id", String(26), nullable=False),  # 一次写下的；各接收者的同一份相同
    Column("first_event", Integer, nullable=False),  # 这一份的头一个在那一次里排第几
    Column("kind", String(32), nullable=False),
    Column("items", Text, nullable=False),  # JSON：一项是一个事件的各个值
    Column("event_count", Integer, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("since", BigInteger, nullable=False),  # 从何时起等着：再送一遍的从头算
    Column("attempts", Integer, nullable=False),
    Column("next_at", BigInteger, nullable=False),
    Column("failing_since", BigInteger),
    Column("aside", Boolean, nullable=False),  # 让到一边了：不再挡着同一条消息的
    Column("dead_at", BigInteger),  # 死信
    Column("why", String(200)),
    Index(
        "mp_ix_events_out_waiting",
        *("receiver", "id"),
        sqlite_where=text("dead_at IS NULL"),
        postgresql_where=text("dead_at IS NULL"),
    ),
    Index(
        "mp_ix_events_out_dead",
        *("receiver", "dead_at"),
        sqlite_where=text("dead_at IS NOT NULL"),
        postgresql_where=text("dead_at IS NOT NULL"),
    ),
    # 号不得再用：发着的那一份靠它认
    sqlite_autoincrement=True,
)

# 一个接收者一行：轮到谁发；停了没有。
event_receivers = Table(
    "mp_event_receivers",
    metadata,
    Column("receiver", String(64), nullable=False),
    Column("holder", String(64), nullable=False),
    Column("lease_until", BigInteger, nullable=False),
    Column("parked_at", BigInteger),  # 它说自己没有了（410）
    PrimaryKeyConstraint("receiver"),
)
