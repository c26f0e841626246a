"""登记处与列的类型；运维的表：告警与通知、出门的事件。其余的在 ``tables``，规矩相同。"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    String,
    Table,
    Text,
    text,
)

metadata: Final = MetaData()

# ULID 只含 ASCII：用 "C" 排序规则比较更快，且次序必与 Python 的字符串次序一致。
message_id: Final = String(26).with_variant(String(26, collation="C"), "postgresql")
# SQLite 只有 INTEGER PRIMARY KEY 才是 rowid 的别名。
serial: Final = BigInteger().with_variant(Integer(), "sqlite")


def partial_index(name: str, *columns: str, where: str) -> Index:
    """只有合乎 ``where`` 的行在里面；两种数据库各有自己的写法。"""
    condition = text(where)
    return Index(name, *columns, sqlite_where=condition, postgresql_where=condition)


# 触发过的告警。``firing_key`` 只有触发着的才有：同一条规则、同一组标签，至多一条在触发。
alerts = Table(
    "mp_alerts",
    metadata,
    Column("alert_id", message_id, nullable=False),
    Column("rule", String(200), nullable=False),
    Column("labels", Text, nullable=False),  # JSON
    Column("severity", String(8), nullable=False),
    Column("summary_zh", Text, nullable=False),
    Column("summary_en", Text, nullable=False),
    Column("value", Float, nullable=False),
    Column("threshold", Float, nullable=False),
    Column("runbook", Text, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("resolved_at", BigInteger),
    Column("spot_key", String(64), nullable=False),  # 规则与标签的散列
    Column("firing_key", String(64)),
    Column("told", SmallInteger, nullable=False),  # 告诉过通知那一边：0 没有，1 触发，2 恢复
    Column("acknowledged_by", String(256)),
    Column("acknowledged_at", BigInteger),
    Column("silenced_until", BigInteger),
    PrimaryKeyConstraint("alert_id"),
    Index("mp_ux_alerts_firing", "firing_key", unique=True),
    Index("mp_ix_alerts_spot", "spot_key"),
    partial_index("mp_ix_alerts_open", "alert_id", where="told < 2"),
)

alert_notes = Table(
    "mp_alert_notes",
    metadata,
    Column("note_id", message_id, nullable=False),
    Column("alert_id", message_id, nullable=False),
    Column("author", String(256), nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("text", Text, nullable=False),
    PrimaryKeyConstraint("note_id"),
    Index("mp_ix_alert_notes_alert", "alert_id", "note_id"),
)

# 越了线、还不到 ``for_s`` 的：评估的进程死了，接手的从这里接着等。
alert_pending = Table(
    "mp_alert_pending",
    metadata,
    Column("spot_key", String(64), nullable=False),
    Column("rule", String(200), nullable=False),
    Column("labels", Text, nullable=False),
    Column("since", BigInteger, nullable=False),
    PrimaryKeyConstraint("spot_key"),
)

# 一行：Redis 不在时谁评估。
alert_turn = Table(
    "mp_alert_turn",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("holder", String(64), nullable=False),
    Column("lease_until", BigInteger, nullable=False),
)

# 一条告警在一个渠道上说过什么：触发、恢复、升级各一行。
alert_notices = Table(
    "mp_alert_notices",
    metadata,
    Column("alert_id", String(64), nullable=False),
    Column("channel", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("is_escalation", Boolean, nullable=False),
    Column("told", Boolean, nullable=False),
    Column("reason", Text, nullable=False),  # 为什么没有说到；或谁被拒绝了
    Column("at", BigInteger, nullable=False),
    PrimaryKeyConstraint("alert_id", "channel", "state", "is_escalation"),
    Index("mp_ix_alert_notices_at", "at"),
)

# 一条告警上发生过的：静音、自动处理；认领、备注、通知各有自己的地方。
alert_events = Table(
    "mp_alert_events",
    metadata,
    Column("event_id", message_id, nullable=False),
    Column("alert_id", message_id, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("by", String(256), nullable=False),  # 谁；自动处理的是做它的进程
    Column("text", Text, nullable=False),
    Column("state", String(16)),  # 自动处理的结果
    Column("until", BigInteger),  # 静音到几时
    PrimaryKeyConstraint("event_id"),
    Index("mp_ix_alert_events_alert", "alert_id", "event_id"),
)


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
    partial_index("mp_ix_events_out_waiting", "receiver", "id", where="dead_at IS NULL"),
    partial_index("mp_ix_events_out_dead", "receiver", "dead_at", where="dead_at IS NOT NULL"),
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
