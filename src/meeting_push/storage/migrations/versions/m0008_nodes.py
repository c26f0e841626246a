"""谁在服务（另一个节点问得到），与这个数据库的身份（Redis 记得它服务的是哪一个）。"""

from __future__ import annotations

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0008"
down_revision: str | None = "0007"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade(op: Operations) -> None:
    op.create_table(
        "mp_nodes",
        sa.Column("node_id", sa.String(64), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("version", sa.String(32), nullable=False),
        sa.Column("hears", sa.Boolean, nullable=False),
        sa.Column("joined", sa.Boolean, nullable=False),
        sa.Column("signs", sa.String(64), nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("beat_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("node_id"),
    )
    op.add_column("mp_delivery_generation", sa.Column("database_id", sa.String(26)))


def downgrade(op: Operations) -> None:
    op.drop_column("mp_delivery_generation", "database_id")
    op.drop_table("mp_nodes")
