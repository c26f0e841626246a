"""结局：过期清理的标记与索引，失败的索引。"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision: str | None = "0003"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.add_column("messages", sa.Column("expired_at", sa.BigInteger))
    _partial_index("ix_messages_expiry", "messages", ["expires_at"], "expired_at IS NULL")
    _partial_index(
        "ix_recipients_failed",
        "message_recipients",
        ["failed_at", "message_id", "user_id"],
        "failed_at IS NOT NULL",
    )


def _partial_index(name: str, table: str, columns: list[str], where: str) -> None:
    condition = sa.text(where)
    op.create_index(name, table, columns, sqlite_where=condition, postgresql_where=condition)


def downgrade() -> None:
    op.drop_index("ix_recipients_failed", "message_recipients")
    op.drop_index("ix_messages_expiry", "messages")
    op.drop_column("messages", "expired_at")
