"""API 密钥的记录：只有散列；号从不重用；表名与应用自己的不撞。"""

from __future__ import annotations

import hashlib

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from meeting_push.errors import MeetingPushError
from meeting_push.storage.accounts import ApiKeyRepository
from meeting_push.storage.database import Database
from meeting_push.storage.migration import MIGRATIONS
from meeting_push.storage.naming import BARE, TABLES

(BEFORE,) = (
    str(one.down_revision)
    for one in ScriptDirectory(str(MIGRATIONS)).walk_revisions()
    if one.path.endswith("_api_keys.py")
)


def digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


async def test_a_key_is_live_until_it_is_revoked(database: Database) -> None:
    keys = ApiKeyRepository(database)
    first = await keys.create("billing", "send,read", digest("a"), 5)
    second = await keys.create("billing", "admin", digest("b"), 6)
    assert [(k.id, k.name, k.scopes, k.digest) for k in await keys.live()] == [
        (first, "billing", "send,read", digest("a")),
        (second, "billing", "admin", digest("b")),
    ]
    assert await keys.revoke(first, 7)
    assert not await keys.revoke(first, 8)
    assert not await keys.revoke(999, 8)
    assert [k.id for k in await keys.live()] == [second]
    assert await keys.count_live() == 1
    assert [(k.id, k.revoked_at) for k in await keys.all()] == [(first, 7), (second, None)]


async def test_the_same_key_is_not_stored_twice(database: Database) -> None:
    keys = ApiKeyRepository(database)
    await keys.create("one", "send", digest("same"), 1)
    with pytest.raises((MeetingPushError, DBAPIError)):
        await keys.create("two", "send", digest("same"), 1)
    assert await keys.count_live() == 1


async def test_a_number_is_never_given_again(database: Database) -> None:
    """消息与幂等键记在它名下。"""
    keys = ApiKeyRepository(database)
    first = await keys.create("one", "send", digest("a"), 1)
    async with database.transaction() as connection:
        await connection.execute(text("DELETE FROM mp_meeting_push_keys"))
    assert await keys.create("two", "send", digest("b"), 1) > first


def test_without_a_prefix_the_table_still_bears_our_name() -> None:
    """0.1 建的库没有前缀：``api_keys`` 是应用自己爱用的。"""
    (name,) = [BARE.name(one) for one in TABLES if "keys" in one and "idempotency" not in one]
    assert name == "meeting_push_keys"


async def test_a_database_from_before_gets_the_table_and_keeps_its_messages(
    database: Database,
) -> None:
    await database.downgrade(BEFORE)
    async with database.transaction() as connection:
        await connection.execute(
            text(
                "INSERT INTO mp_messages (message_id, sender_id, sender_name, message_type,"
                " priority, title, content, receipt, created_at, expires_at, recipient_count)"
                " VALUES ('m', 7, 'ann', 'message', 0, 't', 'c', false, 1, 2, 1)"
            )
        )
    await database.migrate()
    async with database.connect() as connection:
        row = (await connection.execute(text("SELECT sender_id, key_id FROM mp_messages"))).one()
    assert tuple(row) == (7, None)
    assert await ApiKeyRepository(database).count_live() == 0
