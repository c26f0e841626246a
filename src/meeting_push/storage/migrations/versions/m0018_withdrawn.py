"""撤回：消息何时撤回的。"""

from __future__ import annotations

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0018"
down_revision: str | None = "0017"
branch_labels: str | None = None
depends_on: str | None = None

_TABLE = "mp_messages"
_COLUMN = "withdrawn_at"


def upgrade(op: Operations) -> None:
    op.add_column(_TABLE, sa.Column(_COLUMN, sa.BigInteger))


def downgrade(op: Operations) -> None:
    op.drop_column(_TABLE, _COLUMN)
