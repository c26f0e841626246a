"""告警通知过谁，成没成。"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision: str | None = "0009"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.create_table(
        "alert_notices",
        sa.Column("alert_id", sa.String(64), nullable=False),
        sa.Column("channel", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("is_escalation", sa.Boolean, nullable=False),
        sa.Column("told", sa.Boolean, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("alert_id", "channel", "state", "is_escalation"),
    )
    op.create_index("ix_alert_notices_at", "alert_notices", ["at"])


def downgrade() -> None:
    op.drop_index("ix_alert_notices_at", "alert_notices")
    op.drop_table("alert_notices")
