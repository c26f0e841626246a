"""抹掉一个人的活。"""

from __future__ import annotations

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0016"
down_revision: str | None = "0015"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade(op: Operations) -> None:
    op.create_table(
        "mp_erased_people",
        sa.Column("user_id", sa.BigInteger, nullable=False),
        sa.Column("name", sa.String(64)),
        sa.Column("requested_at", sa.BigInteger, nullable=False),
        sa.Column("passes", sa.Integer, nullable=False),
        sa.Column("next_at", sa.BigInteger),
        sa.Column("holder", sa.String(64), nullable=False),
        sa.Column("lease_until", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("user_id"),
    )


def downgrade(op: Operations) -> None:
    op.drop_table("mp_erased_people")
