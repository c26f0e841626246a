"""人的 id 是一段字的：它的号。"""

from __future__ import annotations

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0013"
down_revision: str | None = "0012"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade(op: Operations) -> None:
    op.create_table(
        "mp_people",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True),
        sa.Column(
            "outer_id",
            sa.String(64).with_variant(sa.String(64, collation="C"), "postgresql"),
            nullable=False,
        ),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("created_by", sa.BigInteger),
        sqlite_autoincrement=True,
    )
    op.create_index("mp_ux_people_outer_id", "mp_people", ["outer_id"], unique=True)
    brought = sa.text("created_by IS NOT NULL")
    op.create_index(
        "mp_ix_people_created_by",
        "mp_people",
        ["created_by", "created_at"],
        sqlite_where=brought,
        postgresql_where=brought,
    )


def downgrade(op: Operations) -> None:
    op.drop_table("mp_people")
