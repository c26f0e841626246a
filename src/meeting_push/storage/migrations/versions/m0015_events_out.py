"""出门的事件，与轮到谁发。"""

from __future__ import annotations

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0015"
down_revision: str | None = "0014"
branch_labels: str | None = None
depends_on: str | None = None

_TABLE = "mp_events_out"


def upgrade(op: Operations) -> None:
    op.create_table(
        _TABLE,
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True),
        sa.Column("receiver", sa.String(64), nullable=False),
        sa.Column("batch_id", sa.String(26), nullable=False),
        sa.Column("first_event", sa.Integer, nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("items", sa.Text, nullable=False),
        sa.Column("event_count", sa.Integer, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("since", sa.BigInteger, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("next_at", sa.BigInteger, nullable=False),
        sa.Column("failing_since", sa.BigInteger),
        sa.Column("aside", sa.Boolean, nullable=False),
        sa.Column("dead_at", sa.BigInteger),
        sa.Column("why", sa.String(200)),
        sqlite_autoincrement=True,
    )
    _index(op, "mp_ix_events_out_waiting", "id", "dead_at IS NULL")
    _index(op, "mp_ix_events_out_dead", "dead_at", "dead_at IS NOT NULL")
    op.create_table(
        "mp_event_receivers",
        sa.Column("receiver", sa.String(64), nullable=False),
        sa.Column("holder", sa.String(64), nullable=False),
        sa.Column("lease_until", sa.BigInteger, nullable=False),
        sa.Column("parked_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("receiver"),
    )


def downgrade(op: Operations) -> None:
    op.drop_table("mp_event_receivers")
    op.drop_table(_TABLE)


def _index(op: Operations, name: str, column: str, where: str) -> None:
    some = sa.text(where)
    op.create_index(name, _TABLE, ["receiver", column], sqlite_where=some, postgresql_where=some)
