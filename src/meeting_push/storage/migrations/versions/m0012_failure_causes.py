"""没有送达的归哪一类；过期的何时记下的，好按时段数。

PostgreSQL 上不挡写入：加的列都可空，索引在旁边建。旧的行不补：由原因看得出的，读的时候看出来。
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0012"
down_revision: str | None = "0011"
branch_labels: str | None = None
depends_on: str | None = None

#: CONCURRENTLY 不能在事务里；每一步都可重来：死在半路，从头再做一遍。
OUTSIDE_TRANSACTION = True

_TABLE = "mp_message_recipients"
_INDEX = "mp_ix_recipients_expired"
_INDEXED = ["expired_at", "failure_cause"]
_COLUMNS = ("failure_cause", "expired_at")


def upgrade(op: Operations) -> None:
    if _is_postgresql(op):
        for name, kind in (("failure_cause", "varchar(16)"), ("expired_at", "bigint")):
            op.execute(f"ALTER TABLE {_TABLE} ADD COLUMN IF NOT EXISTS {name} {kind}")
        # 上一次没有建完的：无效，却仍要维护
        op.drop_index(_INDEX, _TABLE, postgresql_concurrently=True, if_exists=True)
        expired = sa.text("expired_at IS NOT NULL")
        op.create_index(
            _INDEX, _TABLE, _INDEXED, postgresql_where=expired, postgresql_concurrently=True
        )
        return
    op.add_column(_TABLE, sa.Column("failure_cause", sa.String(16)))
    op.add_column(_TABLE, sa.Column("expired_at", sa.BigInteger))
    op.create_index(_INDEX, _TABLE, _INDEXED, sqlite_where=sa.text("expired_at IS NOT NULL"))


def downgrade(op: Operations) -> None:
    if _is_postgresql(op):
        op.drop_index(_INDEX, _TABLE, postgresql_concurrently=True, if_exists=True)
        for name in _COLUMNS:
            op.execute(f"ALTER TABLE {_TABLE} DROP COLUMN IF EXISTS {name}")
        return
    op.drop_index(_INDEX, _TABLE)
    for name in _COLUMNS:
        op.drop_column(_TABLE, name)


def _is_postgresql(op: Operations) -> bool:
    return op.get_context().dialect.name == "postgresql"
