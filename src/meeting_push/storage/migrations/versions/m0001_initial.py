"""最初的五张表。写死在此，不引用 ``tables.py``：它会变，已发布的迁移不会。"""

from __future__ import annotations

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0001"
down_revision: str | None = None
branch_labels: str | None = None
depends_on: str | None = None

_message_id = sa.String(26).with_variant(sa.String(26, collation="C"), "postgresql")
_serial = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade(op: Operations) -> None:
    _create_users(op)
    _create_refresh_tokens(op)
    _create_messages(op)
    _create_message_recipients(op)
    _create_idempotency_keys(op)


def _create_users(op: Operations) -> None:
    op.create_table(
        "mp_users",
        sa.Column("id", _serial, primary_key=True),
        sa.Column("username", sa.String(64), nullable=False),
        sa.Column("username_key", sa.String(256), nullable=False),
        sa.Column("password_hash", sa.String(255), nullable=False),
        sa.Column("role", sa.String(32), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("disabled_at", sa.BigInteger),
        sqlite_autoincrement=True,
    )
    op.create_index("mp_ux_users_username_key", "mp_users", ["username_key"], unique=True)


def _create_refresh_tokens(op: Operations) -> None:
    op.create_table(
        "mp_refresh_tokens",
        sa.Column("token_hash", sa.LargeBinary(32), nullable=False),
        sa.Column("family_id", sa.String(26), nullable=False),
        sa.Column(
            "user_id", _serial, sa.ForeignKey("mp_users.id", ondelete="CASCADE"), nullable=False
        ),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("used_at", sa.BigInteger),
        sa.Column("revoked_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("token_hash"),
        sqlite_with_rowid=False,
    )
    op.create_index("mp_ix_refresh_tokens_family", "mp_refresh_tokens", ["family_id"])
    op.create_index("mp_ix_refresh_tokens_user", "mp_refresh_tokens", ["user_id"])


def _create_messages(op: Operations) -> None:
    op.create_table(
        "mp_messages",
        sa.Column("message_id", _message_id, nullable=False),
        sa.Column("sender_id", sa.BigInteger, nullable=False),
        sa.Column("sender_name", sa.String(256), nullable=False),
        sa.Column("message_type", sa.String(16), nullable=False),
        sa.Column("priority", sa.SmallInteger, nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("content", sa.Text, nullable=False),
        sa.Column("data", sa.Text),
        sa.Column("receipt", sa.Boolean, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("deliver_at", sa.BigInteger),
        sa.Column("enqueued_at", sa.BigInteger),
        sa.Column("recipient_count", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("message_id"),
    )
    waiting = sa.text("enqueued_at IS NULL")
    op.create_index(
        "mp_ix_messages_outbox",
        "mp_messages",
        ["message_id"],
        sqlite_where=waiting,
        postgresql_where=waiting,
    )


def _create_message_recipients(op: Operations) -> None:
    op.create_table(
        "mp_message_recipients",
        sa.Column("message_id", _message_id, nullable=False),
        sa.Column("user_id", sa.BigInteger, nullable=False),
        sa.Column("status", sa.String(9), nullable=False),
        sa.Column("attempts", sa.SmallInteger, nullable=False),
        sa.Column("deliver_at", sa.BigInteger),
        sa.Column("sent_at", sa.BigInteger),
        sa.Column("delivered_at", sa.BigInteger),
        sa.Column("failed_at", sa.BigInteger),
        sa.Column("failure_reason", sa.String(200)),
        sa.Column("read_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("message_id", "user_id"),
        sqlite_with_rowid=False,
        postgresql_with={"fillfactor": 80},
    )
    op.create_index("mp_ix_recipients_inbox", "mp_message_recipients", ["user_id", "message_id"])
    unread = sa.text("read_at IS NULL")
    op.create_index(
        "mp_ix_recipients_unread",
        "mp_message_recipients",
        ["user_id", "message_id"],
        sqlite_where=unread,
        postgresql_where=unread,
    )


def _create_idempotency_keys(op: Operations) -> None:
    op.create_table(
        "mp_idempotency_keys",
        sa.Column("sender_id", sa.BigInteger, nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("request_hash", sa.LargeBinary(32), nullable=False),
        sa.Column("response", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("sender_id", "key"),
    )
    op.create_index("mp_ix_idempotency_keys_created", "mp_idempotency_keys", ["created_at"])


def downgrade(op: Operations) -> None:
    for table in (
        "mp_idempotency_keys",
        "mp_message_recipients",
        "mp_messages",
        "mp_refresh_tokens",
        "mp_users",
    ):
        op.drop_table(table)
