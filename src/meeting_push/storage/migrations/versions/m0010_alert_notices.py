"""告警通知过谁，成没成。"""

from __future__ import annotations

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0010"
down_revision: str | None = "0009"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade(op: Operations) -> None:
    op.create_table(
        "mp_alert_notices",
        sa.Column("alert_id", sa.String(64), nullable=False),
        sa.Column("channel", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("is_escalation", sa.Boolean, nullable=False),
        sa.Column("told", sa.Boolean, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("alert_id", "channel", "state", "is_escalation"),
    )
    op.create_index("mp_ix_alert_notices_at", "mp_alert_notices", ["at"])


def downgrade(op: Operations) -> None:
    op.drop_index("mp_ix_alert_notices_at", "mp_alert_notices")
    op.drop_table("mp_alert_notices")
