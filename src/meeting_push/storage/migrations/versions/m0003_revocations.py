"""吊销的记录。"""

from __future__ import annotations

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0003"
down_revision: str | None = "0002"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade(op: Operations) -> None:
    op.create_table(
        "mp_revocations",
        sa.Column("user_id", sa.BigInteger, nullable=False),
        sa.Column("session_id", sa.String(256), nullable=False),
        sa.Column("token_id", sa.String(256), nullable=False),
        sa.Column("revoked_before", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("user_id", "session_id", "token_id"),
        sqlite_with_rowid=False,
    )
    op.create_index("mp_ix_revocations_version", "mp_revocations", ["version"])
    version = op.create_table(
        "mp_revocation_version",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("version", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(version, [{"id": 1, "version": 0}])


def downgrade(op: Operations) -> None:
    op.drop_table("mp_revocation_version")
    op.drop_table("mp_revocations")
