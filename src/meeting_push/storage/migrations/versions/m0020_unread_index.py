"""未读数只看索引：收件箱的索引带上它要看的各列。

从前还要一行行去表里看到时没有、归档没有，表大了就多是冷的页。写一行不多花什么：多的几列插入时都是空的。
PostgreSQL 上不挡写入，同 0007。
"""

from __future__ import annotations

from alembic.operations import Operations

revision = "0020"
down_revision: str | None = "0019"
branch_labels: str | None = None
depends_on: str | None = None

#: CONCURRENTLY 不能在事务里；每一步都可重来：死在半路，从头再做一遍。
OUTSIDE_TRANSACTION = True

_TABLE = "mp_message_recipients"
_INDEX = "mp_ix_recipients_inbox"
_BEFORE = ["user_id", "message_id", "read_at"]


def upgrade(op: Operations) -> None:
    _replace(op, [*_BEFORE, "deliver_at", "archived_at"])


def downgrade(op: Operations) -> None:
    _replace(op, _BEFORE)


def _replace(op: Operations, columns: list[str]) -> None:
    if op.get_context().dialect.name != "postgresql":
        op.drop_index(_INDEX, _TABLE)
        op.create_index(_INDEX, _TABLE, columns)
        return
    building = f"{_INDEX}_next"
    _drop(op, building)  # 上一次没有建完的：无效，却仍要维护
    op.create_index(building, _TABLE, columns, postgresql_concurrently=True)
    _drop(op, _INDEX)
    op.execute(f"ALTER INDEX {building} RENAME TO {_INDEX}")


def _drop(op: Operations, name: str) -> None:
    op.drop_index(name, _TABLE, postgresql_concurrently=True, if_exists=True)
