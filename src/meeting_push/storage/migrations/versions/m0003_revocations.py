"""吊销的记录。"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision: str | None = "0002"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.create_table(
        "revocations",
        sa.Column("user_id", sa.BigInteger, nullable=False),
        sa.Column("session_id", sa.String(256), nullable=False),
        sa.Column("token_id", sa.String(256), nullable=False),
        sa.Column("revoked_before", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("user_id", "session_id", "token_id"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_revocations_version", "revocations", ["version"])
    version = op.create_table(
        "revocation_version",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("version", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(version, [{"id": 1, "version": 0}])


def downgrade() -> None:
    op.drop_table("revocation_version")
    op.drop_table("revocations")
