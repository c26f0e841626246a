"""自己发的一页沿索引走：从前从新往旧一页看两万条，别人的一百万条要翻五十个空页。

PostgreSQL 上不挡写入，同 0007。
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0022"
down_revision: str | None = "0021"
branch_labels: str | None = None
depends_on: str | None = None

#: CONCURRENTLY 不能在事务里；每一步都可重来：死在半路，从头再做一遍。
OUTSIDE_TRANSACTION = True

_TABLE = "mp_messages"
_INDEXES = (
    ("mp_ix_messages_sender", "sender_id", "key_id IS NULL AND sender_id <> 0"),
    ("mp_ix_messages_key", "key_id", "key_id IS NOT NULL"),
)


def upgrade(op: Operations) -> None:
    online = op.get_context().dialect.name == "postgresql"
    for name, column, where in _INDEXES:
        if online:
            _drop(op, name)  # 上一次没有建完的：无效，却仍要维护
        op.create_index(
            name,
            _TABLE,
            [column, "message_id"],
            sqlite_where=sa.text(where),
            postgresql_where=sa.text(where),
            postgresql_concurrently=online,
        )


def downgrade(op: Operations) -> None:
    online = op.get_context().dialect.name == "postgresql"
    for name, _, _ in reversed(_INDEXES):
        if online:
            _drop(op, name)
        else:
            op.drop_index(name, _TABLE)


def _drop(op: Operations, name: str) -> None:
    op.drop_index(name, _TABLE, postgresql_concurrently=True, if_exists=True)
