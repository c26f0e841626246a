"""主要的数一分钟一行；一条告警上发生过的事。"""

from __future__ import annotations

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0011"
down_revision: str | None = "0010"
branch_labels: str | None = None
depends_on: str | None = None


def _id() -> sa.String:
    return sa.String(26).with_variant(sa.String(26, collation="C"), "postgresql")


def upgrade(op: Operations) -> None:
    op.create_table(
        "mp_stats_history",
        sa.Column("step_s", sa.Integer, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("figures", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("step_s", "at"),
    )
    op.create_table(
        "mp_alert_events",
        sa.Column("event_id", _id(), nullable=False),
        sa.Column("alert_id", _id(), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("by", sa.String(256), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("state", sa.String(16)),
        sa.Column("until", sa.BigInteger),
        sa.PrimaryKeyConstraint("event_id"),
    )
    op.create_index("mp_ix_alert_events_alert", "mp_alert_events", ["alert_id", "event_id"])


def downgrade(op: Operations) -> None:
    op.drop_table("mp_alert_events")
    op.drop_table("mp_stats_history")
