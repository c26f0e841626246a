"""收件箱：归档；一个人对广播的已读与归档；他从何时起被认识，他的收件箱的版本。

PostgreSQL 上不挡写入，同 0012。
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0019"
down_revision: str | None = "0018"
branch_labels: str | None = None
depends_on: str | None = None

#: CONCURRENTLY 不能在事务里；每一步都可重来：死在半路，从头再做一遍。
OUTSIDE_TRANSACTION = True

_TABLE = "mp_message_recipients"
_INDEX = "mp_ix_recipients_archived"
_INDEXED = ["user_id", "message_id"]
_STATES = "mp_broadcast_states"
_INBOXES = "mp_meeting_push_inboxes"


def upgrade(op: Operations) -> None:
    _add_archived(op)
    op.create_table(
        _STATES,
        sa.Column("user_id", sa.BigInteger, nullable=False),
        sa.Column("message_id", _message_id(), nullable=False),
        sa.Column("read_at", sa.BigInteger),
        sa.Column("archived_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("user_id", "message_id"),
        if_not_exists=True,
        sqlite_with_rowid=False,
    )
    op.create_table(
        _INBOXES,
        sa.Column("user_id", sa.BigInteger, nullable=False),
        sa.Column("since", _message_id(), nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("user_id"),
        if_not_exists=True,
        sqlite_with_rowid=False,
    )


def downgrade(op: Operations) -> None:
    op.drop_table(_INBOXES, if_exists=True)
    op.drop_table(_STATES, if_exists=True)
    if _is_postgresql(op):
        op.drop_index(_INDEX, _TABLE, postgresql_concurrently=True, if_exists=True)
        op.execute(f"ALTER TABLE {_TABLE} DROP COLUMN IF EXISTS archived_at")
        return
    op.drop_index(_INDEX, _TABLE)
    op.drop_column(_TABLE, "archived_at")


def _add_archived(op: Operations) -> None:
    archived = sa.text("archived_at IS NOT NULL")
    if _is_postgresql(op):
        op.execute(f"ALTER TABLE {_TABLE} ADD COLUMN IF NOT EXISTS archived_at bigint")
        # 上一次没有建完的：无效，却仍要维护
        op.drop_index(_INDEX, _TABLE, postgresql_concurrently=True, if_exists=True)
        op.create_index(
            _INDEX, _TABLE, _INDEXED, postgresql_where=archived, postgresql_concurrently=True
        )
        return
    op.add_column(_TABLE, sa.Column("archived_at", sa.BigInteger))
    op.create_index(_INDEX, _TABLE, _INDEXED, sqlite_where=archived)


def _message_id() -> sa.types.TypeEngine[str]:
    return sa.String(26).with_variant(sa.String(26, collation="C"), "postgresql")


def _is_postgresql(op: Operations) -> bool:
    return op.get_context().dialect.name == "postgresql"
