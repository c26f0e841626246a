"""收件箱与未读数共用一个索引：少写一个，每收件人少一半的页。"""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision: str | None = "0006"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.drop_index("ix_recipients_unread", "message_recipients")
    op.drop_index("ix_recipients_inbox", "message_recipients")
    op.create_index(
        "ix_recipients_inbox", "message_recipients", ["user_id", "message_id", "read_at"]
    )
