"""留多久：从前用过的库什么也不删，新的留 180 天；轮到谁删。"""

from __future__ import annotations

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0017"
down_revision: str | None = "0016"
branch_labels: str | None = None
depends_on: str | None = None

_TABLE = "mp_meeting_push_retention"
_RECIPIENTS = "mp_message_recipients"
_USED = "EXISTS (SELECT 1 FROM mp_delivery_generation) OR EXISTS (SELECT 1 FROM mp_messages)"
_VACUUM = {"autovacuum_vacuum_scale_factor": "0.02", "autovacuum_vacuum_threshold": "10000"}


def upgrade(op: Operations) -> None:
    op.create_table(
        _TABLE,
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("default_days", sa.Integer, nullable=False),
        sa.Column("next_at", sa.BigInteger, nullable=False),
        sa.Column("holder", sa.String(64), nullable=False),
        sa.Column("lease_until", sa.BigInteger, nullable=False),
    )
    # 没有前缀的是 0.1 建的，服务过的有代次；提到的别的表在更早的各份里
    bare = op.get_context().version_table == "alembic_version"
    fresh = 0 if bare else 180
    op.execute(
        f"INSERT INTO {_TABLE} (id, default_days, next_at, holder, lease_until)"
        f" SELECT 1, CASE WHEN {_USED} THEN 0 ELSE {fresh} END, 0, '', 0"
    )
    if op.get_context().dialect.name == "postgresql":
        given = ", ".join(f"{name} = {value}" for name, value in _VACUUM.items())
        op.execute(f"ALTER TABLE {_RECIPIENTS} SET ({given})")


def downgrade(op: Operations) -> None:
    if op.get_context().dialect.name == "postgresql":
        op.execute(f"ALTER TABLE {_RECIPIENTS} RESET ({', '.join(_VACUUM)})")
    op.drop_table(_TABLE)
