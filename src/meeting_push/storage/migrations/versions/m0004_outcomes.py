"""结局：过期清理的标记与索引，失败的索引。"""

from __future__ import annotations

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0004"
down_revision: str | None = "0003"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade(op: Operations) -> None:
    op.add_column("mp_messages", sa.Column("expired_at", sa.BigInteger))
    _partial_index(op, "mp_ix_messages_expiry", "mp_messages", ["expires_at"], "expired_at IS NULL")
    _partial_index(
        op,
        "mp_ix_recipients_failed",
        "mp_message_recipients",
        ["failed_at", "message_id", "user_id"],
        "failed_at IS NOT NULL",
    )


def _partial_index(op: Operations, name: str, table: str, columns: list[str], where: str) -> None:
    condition = sa.text(where)
    op.create_index(name, table, columns, sqlite_where=condition, postgresql_where=condition)


def downgrade(op: Operations) -> None:
    op.drop_index("mp_ix_recipients_failed", "mp_message_recipients")
    op.drop_index("mp_ix_messages_expiry", "mp_messages")
    op.drop_column("mp_messages", "expired_at")
