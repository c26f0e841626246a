"""后端的 API 密钥，与哪一枚密钥发的。

表名带着我们的名字：0.1 建的库没有前缀，而 ``api_keys`` 是应用自己爱用的。
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0014"
down_revision: str | None = "0013"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade(op: Operations) -> None:
    op.create_table(
        "mp_meeting_push_keys",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("scopes", sa.String(128), nullable=False),
        sa.Column("digest", sa.LargeBinary(32), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("revoked_at", sa.BigInteger),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "mp_ux_meeting_push_keys_digest", "mp_meeting_push_keys", ["digest"], unique=True
    )
    op.add_column("mp_messages", sa.Column("key_id", sa.BigInteger))


def downgrade(op: Operations) -> None:
    op.drop_column("mp_messages", "key_id")
    op.drop_table("mp_meeting_push_keys")
