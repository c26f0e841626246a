"""幂等键的仓库。"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from msgspec.structs import replace

from meeting_push.accept.idempotency import (
    KEPT_MS,
    IdempotencyPurge,
    described,
    stored_response,
)
from meeting_push.model import Draft, Sender
from meeting_push.storage.database import Database
from meeting_push.storage.idempotency import IdempotencyRepository
from meeting_push.storage.rows import StoredResponse

NOW = 1_800_000_000_000
FIRST = StoredResponse(b"h", '{"n":1}')


async def save_key(database: Database, key: str, stored: StoredResponse = FIRST) -> bool:
    keys = IdempotencyRepository(database)
    async with database.transaction() as connection:
        return await keys.save(connection, 1, key, stored, NOW)


async def find_key(database: Database, key: str) -> StoredResponse | None:
    async with database.connect() as connection:
        return await IdempotencyRepository(database).find(connection, 1, key)


async def test_a_repeated_key_keeps_the_first_answer(database: Database) -> None:
    assert await save_key(database, "k")
    assert not await save_key(database, "k", StoredResponse(b"other", "{}"))
    assert await find_key(database, "k") == FIRST
    assert await find_key(database, "another") is None


async def test_a_key_saved_by_a_rolled_back_transaction_is_free(database: Database) -> None:
    async def save_and_fail() -> None:
        async with database.transaction() as connection:
            await IdempotencyRepository(database).save(connection, 1, "k", FIRST, NOW)
            raise LookupError

    with pytest.raises(LookupError):
        await save_and_fail()
    assert await save_key(database, "k")


async def test_of_concurrent_requests_with_one_key_one_saves_it(database: Database) -> None:
    assert sum(await asyncio.gather(*(save_key(database, "k") for _ in range(6)))) == 1


async def test_old_keys_are_purged(database: Database) -> None:
    await save_key(database, "k")
    keys = IdempotencyRepository(database)
    assert await keys.purge(NOW, 10) == 0
    assert await keys.purge(NOW + 1, 10) == 1


def at(now: int) -> Callable[[], Awaitable[int]]:
    async def agreed() -> int:
        return now

    return agreed


async def test_a17_idempotency_keys_live_a_day_and_go_in_bounded_steps(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A17: 0.1 里没有人清理它们。"""
    monkeypatch.setattr("meeting_push.accept.idempotency.STEP", 3)
    for number in range(8):
        await save_key(database, f"k{number}")
    keys = IdempotencyRepository(database)
    assert await keys.purge(NOW + 1, 3) == 3
    assert await IdempotencyPurge(keys, at(NOW + KEPT_MS)).purge() == 0
    assert await IdempotencyPurge(keys, at(NOW + KEPT_MS + 1)).purge() == 5


def test_what_a_version_without_senders_remembered_is_still_the_same_request() -> None:
    """升级之后一天之内带着旧键再来的，不是另一个请求。"""
    draft = Draft(recipient_ids=(1,), title="t", content="c")
    assert "sender" not in described(draft)
    named = described(replace(draft, sender=Sender(None, "hr")))
    assert stored_response(named, {}) != stored_response(described(draft), {})
