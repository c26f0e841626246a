"""会议、参与者、转录。"""

from __future__ import annotations

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0002"
down_revision: str | None = "0001"
branch_labels: str | None = None
depends_on: str | None = None

_meeting_id = sa.String(26).with_variant(sa.String(26, collation="C"), "postgresql")


def upgrade(op: Operations) -> None:
    _create_meetings(op)
    _create_participants(op)
    _create_segments(op)


def _create_meetings(op: Operations) -> None:
    op.create_table(
        "mp_meetings",
        sa.Column("meeting_id", _meeting_id, nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("organizer_id", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("ended_at", sa.BigInteger),
        sa.Column("last_seq", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("meeting_id"),
        postgresql_with={"fillfactor": 80},
    )


def _create_participants(op: Operations) -> None:
    op.create_table(
        "mp_meeting_participants",
        sa.Column("meeting_id", _meeting_id, nullable=False),
        sa.Column("user_id", sa.BigInteger, nullable=False),
        sa.Column("name", sa.String(256), nullable=False),
        sa.Column("invited_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("meeting_id", "user_id"),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "mp_ix_meeting_participants_user", "mp_meeting_participants", ["user_id", "meeting_id"]
    )


def _create_segments(op: Operations) -> None:
    op.create_table(
        "mp_transcript_segments",
        sa.Column("meeting_id", _meeting_id, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("sender_id", sa.BigInteger, nullable=False),
        sa.Column("speaker", sa.String(256), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("start_ms", sa.BigInteger, nullable=False),
        sa.Column("end_ms", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("meeting_id", "seq"),
    )


def downgrade(op: Operations) -> None:
    for table in ("mp_transcript_segments", "mp_meeting_participants", "mp_meetings"):
        op.drop_table(table)
