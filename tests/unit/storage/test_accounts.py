"""账号与刷新令牌的仓库。"""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import insert, update

from meeting_push.errors import UsernameTakenError
from meeting_push.storage.accounts import RefreshTokenRepository, UserRepository
from meeting_push.storage.database import Database
from meeting_push.storage.rows import RefreshToken
from meeting_push.storage.tables import users as users_table


@pytest.fixture
def users(database: Database) -> UserRepository:
    return UserRepository(database)


@pytest.fixture
def tokens() -> RefreshTokenRepository:
    return RefreshTokenRepository()


async def test_a_created_user_is_found_by_id_and_name(users: UserRepository) -> None:
    created = await users.create("alice", "hash", "admin", 5)
    assert await users.by_id(created.id) == created
    assert await users.by_name("alice") == created


@pytest.mark.parametrize("other", ["alice", "ALICE", "ａｌｉｃｅ"])
async def test_names_that_look_alike_are_one_name(users: UserRepository, other: str) -> None:
    created = await users.create("Alice", "hash", "user", 5)
    with pytest.raises(UsernameTakenError):
        await users.create(other, "hash", "user", 6)
    assert await users.by_name(other) == created


async def test_of_many_who_want_a_name_one_gets_it(users: UserRepository) -> None:
    results = await asyncio.gather(
        *(users.create("bob", "hash", "user", n) for n in range(8)), return_exceptions=True
    )
    assert sum(isinstance(result, UsernameTakenError) for result in results) == 7


async def test_the_names_of_those_who_exist_are_told(users: UserRepository) -> None:
    ann, bob = [await users.create(name, "hash", "user", 0) for name in ("ann", "bob")]
    assert await users.names([bob.id, ann.id, 99]) == {ann.id: "ann", bob.id: "bob"}
    assert await users.names([]) == {}


async def test_users_are_listed_in_pages(users: UserRepository) -> None:
    ids = [(await users.create(f"user{n}", "hash", "user", 0)).id for n in range(5)]
    first = await users.list(limit=3)
    rest = await users.list(after_id=first[-1].id, limit=3)
    assert [user.id for user in first + rest] == ids


async def test_ten_thousand_ids_are_checked_in_one_query(
    users: UserRepository, database: Database
) -> None:
    row = {"password_hash": "", "role": "user", "created_at": 0}
    many = [{**row, "username": f"u{n}", "username_key": f"u{n}"} for n in range(5_000)]
    async with database.transaction() as connection:
        await connection.execute(insert(users_table), many)
    assert await users.existing_ids(range(1, 10_001)) == set(range(1, 5_001))


async def test_what_is_asked_in_one_tick_is_one_question(
    users: UserRepository, database: Database
) -> None:
    here = [(await users.create(name, "hash", "user", 5)).id for name in ("alice", "bob", "carol")]
    before = database.figures.statements.count
    given_up = asyncio.create_task(users.existing_ids([here[0]]))
    answers = [asyncio.create_task(users.existing_ids([user_id, 10**9])) for user_id in here]
    await asyncio.sleep(0)
    given_up.cancel()
    assert await asyncio.gather(*answers) == [{user_id} for user_id in here]
    assert database.figures.statements.count == before + 1


async def test_ids_that_can_not_be_ids_do_not_exist(users: UserRepository) -> None:
    created = await users.create("alice", "hash", "user", 5)
    assert await users.existing_ids([-1, 0, created.id, 2**63, 10**40]) == {created.id}


async def test_disabled_users_are_no_recipients(users: UserRepository, database: Database) -> None:
    created = await users.create("alice", "hash", "user", 5)
    async with database.transaction() as connection:
        await connection.execute(update(users_table).values(disabled_at=6))
    assert await users.existing_ids([created.id]) == set()


async def test_the_password_hash_is_not_in_the_repr(users: UserRepository) -> None:
    assert "s3cret-hash" not in repr(await users.create("alice", "s3cret-hash", "user", 5))


async def token_of(users: UserRepository, family: str = "F", expires_at: int = 100) -> RefreshToken:
    user = await users.by_name("alice") or await users.create("alice", "hash", "user", 5)
    return RefreshToken(f"{family}{expires_at}".encode(), family, user.id, expires_at)


async def test_a_refresh_token_can_be_used_once(
    users: UserRepository, tokens: RefreshTokenRepository, database: Database
) -> None:
    token = await token_of(users)
    async with database.transaction() as connection:
        await tokens.add(connection, token)

    async def use() -> bool:
        async with database.transaction() as connection:
            return await tokens.use(connection, token.token_hash, 7)

    assert sorted(await asyncio.gather(use(), use(), use())) == [False, False, True]


async def test_a_revoked_family_can_not_be_used(
    users: UserRepository, tokens: RefreshTokenRepository, database: Database
) -> None:
    token = await token_of(users)
    async with database.transaction() as connection:
        await tokens.add(connection, token)
        assert await tokens.revoke_family(connection, "F", 9) == 1
        assert await tokens.revoke_family(connection, "F", 10) == 0
    async with database.transaction() as connection:
        found = await tokens.find(connection, token.token_hash)
        assert not await tokens.use(connection, token.token_hash, 11)
    assert found is not None
    assert found.revoked_at == 9


async def test_purging_removes_only_expired_tokens(
    users: UserRepository, tokens: RefreshTokenRepository, database: Database
) -> None:
    old, fresh = await token_of(users, expires_at=10), await token_of(users, expires_at=100)
    async with database.transaction() as connection:
        await tokens.add(connection, old)
        await tokens.add(connection, fresh)
        await tokens.purge(connection, old.user_id, 10)
        assert await tokens.find(connection, old.token_hash) is None
        assert await tokens.find(connection, fresh.token_hash) == fresh
