"""清理旧广播时，要按消息找各人对它做过的。"""

from __future__ import annotations

from alembic.operations import Operations

revision = "0021"
down_revision: str | None = "0020"
branch_labels: str | None = None
depends_on: str | None = None

_INDEX, _TABLE = "mp_ix_broadcast_states_message", "mp_broadcast_states"


def upgrade(op: Operations) -> None:
    op.create_index(_INDEX, _TABLE, ["message_id"])


def downgrade(op: Operations) -> None:
    op.drop_index(_INDEX, _TABLE)
