"""广播与它的确认。"""

from __future__ import annotations

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0006"
down_revision: str | None = "0005"
branch_labels: str | None = None
depends_on: str | None = None

_message_id = sa.String(26).with_variant(sa.String(26, collation="C"), "postgresql")


def upgrade(op: Operations) -> None:
    op.create_table(
        "mp_broadcasts",
        sa.Column("message_id", _message_id, nullable=False),
        sa.Column("logged_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("message_id"),
    )
    waiting = sa.text("logged_at IS NULL")
    op.create_index(
        "mp_ix_broadcasts_outbox",
        "mp_broadcasts",
        ["message_id"],
        sqlite_where=waiting,
        postgresql_where=waiting,
    )
    op.create_table(
        "mp_broadcast_receipts",
        sa.Column("message_id", _message_id, nullable=False),
        sa.Column("user_id", sa.BigInteger, nullable=False),
        sa.Column("delivered_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("message_id", "user_id"),
        sqlite_with_rowid=False,
    )


def downgrade(op: Operations) -> None:
    op.drop_table("mp_broadcast_receipts")
    op.drop_table("mp_broadcasts")
