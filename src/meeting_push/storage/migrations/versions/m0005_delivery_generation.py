"""对账用的一行：Redis 的代次与记号，以及谁在对账、做到哪里。"""

from __future__ import annotations

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0005"
down_revision: str | None = "0004"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade(op: Operations) -> None:
    message_id = sa.String(26).with_variant(sa.String(26, collation="C"), "postgresql")
    op.create_table(
        "mp_delivery_generation",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("generation", sa.BigInteger, nullable=False),
        sa.Column("mark", sa.BigInteger, nullable=False),
        sa.Column("cursor", message_id),
        sa.Column("holder", sa.String(26), nullable=False),
        sa.Column("lease_until", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )


def downgrade(op: Operations) -> None:
    op.drop_table("mp_delivery_generation")
