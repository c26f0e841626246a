"""触发过的告警、备注，与评估的状态。"""

from __future__ import annotations

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0009"
down_revision: str | None = "0008"
branch_labels: str | None = None
depends_on: str | None = None

_OPEN = sa.text("told < 2")


def _id() -> sa.String:
    return sa.String(26).with_variant(sa.String(26, collation="C"), "postgresql")


def upgrade(op: Operations) -> None:
    op.create_table(
        "mp_alerts",
        sa.Column("alert_id", _id(), nullable=False),
        sa.Column("rule", sa.String(200), nullable=False),
        sa.Column("labels", sa.Text, nullable=False),
        sa.Column("severity", sa.String(8), nullable=False),
        sa.Column("summary_zh", sa.Text, nullable=False),
        sa.Column("summary_en", sa.Text, nullable=False),
        sa.Column("value", sa.Float, nullable=False),
        sa.Column("threshold", sa.Float, nullable=False),
        sa.Column("runbook", sa.Text, nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("resolved_at", sa.BigInteger),
        sa.Column("spot_key", sa.String(64), nullable=False),
        sa.Column("firing_key", sa.String(64)),
        sa.Column("told", sa.SmallInteger, nullable=False),
        sa.Column("acknowledged_by", sa.String(256)),
        sa.Column("acknowledged_at", sa.BigInteger),
        sa.Column("silenced_until", sa.BigInteger),
        sa.PrimaryKeyConstraint("alert_id"),
    )
    op.create_index("mp_ux_alerts_firing", "mp_alerts", ["firing_key"], unique=True)
    op.create_index("mp_ix_alerts_spot", "mp_alerts", ["spot_key"])
    op.create_index(
        "mp_ix_alerts_open", "mp_alerts", ["alert_id"], sqlite_where=_OPEN, postgresql_where=_OPEN
    )
    op.create_table(
        "mp_alert_notes",
        sa.Column("note_id", _id(), nullable=False),
        sa.Column("alert_id", _id(), nullable=False),
        sa.Column("author", sa.String(256), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("note_id"),
    )
    op.create_index("mp_ix_alert_notes_alert", "mp_alert_notes", ["alert_id", "note_id"])
    op.create_table(
        "mp_alert_pending",
        sa.Column("spot_key", sa.String(64), nullable=False),
        sa.Column("rule", sa.String(200), nullable=False),
        sa.Column("labels", sa.Text, nullable=False),
        sa.Column("since", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("spot_key"),
    )
    op.create_table(
        "mp_alert_turn",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("holder", sa.String(64), nullable=False),
        sa.Column("lease_until", sa.BigInteger, nullable=False),
    )


def downgrade(op: Operations) -> None:
    for table in ("mp_alert_turn", "mp_alert_pending", "mp_alert_notes", "mp_alerts"):
        op.drop_table(table)
