"""吊销的记录与名单：持久、有序、有界；与刷新并发时不漏。"""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import delete, func, select, update

from meeting_push.auth.access_tokens import AccessTokens
from meeting_push.auth.auth_service import AuthService
from meeting_push.auth.passwords import Passwords
from meeting_push.auth.revocations import Revocations, Revoke
from meeting_push.clock import now_ms
from meeting_push.errors import DatabaseUnavailableError, MeetingPushError, TokenRevokedError
from meeting_push.model import Principal, Revocation
from meeting_push.settings import load_settings
from meeting_push.storage.accounts import KEPT_MS, RefreshTokenRepository, RevocationRepository
from meeting_push.storage.database import Database, SqlConnection
from meeting_push.storage.rows import RefreshToken
from meeting_push.storage.tables import revocation_version, users
from meeting_push.storage.tables import revocations as table
from tests.support.revoking import revocations_of

SECRET = "0123456789abcdef0123456789abcdef"
PASSWORD = "correct horse"
HERE = "192.0.2.1"
NOW = 1_800_000_000_000


def principal(
    user_id: int = 7, issued_at: int = NOW, session: str | None = "s", token: str | None = "t"
) -> Principal:
    return Principal(user_id, "user", issued_at, NOW + 600_000, session, token)


@pytest.fixture
def revocations(database: Database) -> Revocations:
    return revocations_of(load_settings().auth, database)


@pytest.fixture
def auth(database: Database, revocations: Revocations) -> AuthService:
    settings = load_settings().auth
    tokens = AccessTokens(settings, SECRET)
    return AuthService(
        settings, database, tokens, revocations=revocations, passwords=Passwords(1, 8)
    )


def another(database: Database) -> Revocations:
    """另一个节点。"""
    return revocations_of(load_settings().auth, database)


async def test_a_node_that_starts_knows_all_revocations(
    revocations: Revocations, database: Database
) -> None:
    await revocations.revoke_user(1, reason="test")
    await revocations.revoke_session(2, "s", reason="test")
    await revocations.revoke_token(principal(3), reason="test")
    late = another(database)
    await late.refresh()
    revoked = [late.known.covers(principal(user_id, issued_at=0)) for user_id in (1, 2, 3, 4)]
    assert revoked == [True, True, True, False]


async def test_a_node_learns_each_revocation_once(
    revocations: Revocations, database: Database
) -> None:
    learned: list[Revocation] = []
    node = another(database)
    node.listen(learned.append)
    for _ in range(2):
        await revocations.revoke_session(2, "s", reason="test")
        await node.refresh()
    await node.refresh()
    assert [revocation.session_id for revocation in learned] == ["s"]


async def test_concurrent_revocations_are_never_skipped(
    revocations: Revocations, database: Database
) -> None:
    """号的次序就是提交的次序：边写边取增量，一个不漏。"""
    node = another(database)
    writing = asyncio.gather(*(revocations.revoke_user(n, reason="test") for n in range(1, 41)))
    while not writing.done():
        await node.refresh()
        await asyncio.sleep(0)
    await node.refresh()
    assert all(node.known.covers(principal(n, issued_at=0)) for n in range(1, 41))


async def test_a_database_that_went_back_in_time_is_read_anew(
    revocations: Revocations, database: Database
) -> None:
    """从备份恢复、主从切换丢了提交：号倒退了，新的吊销仍须学到。"""
    node = another(database)
    for user_id in (1, 2):
        await revocations.revoke_user(user_id, reason="test")
    await node.refresh()
    async with database.transaction() as connection:
        await connection.execute(delete(table))
        await connection.execute(update(revocation_version).values(version=0))
    await revocations.revoke_user(3, reason="test")
    await node.refresh()
    assert node.known.covers(principal(3, issued_at=0))


@pytest.mark.parametrize(("late_ms", "left"), [(KEPT_MS, 2), (KEPT_MS + 1, 1)])
async def test_e4_expired_records_are_cleared_away_a_day_later(
    database: Database, late_ms: int, left: int
) -> None:
    """E4：快一小时的钟删得早，作废的令牌就又能用。"""
    records = RevocationRepository(database)
    async with database.transaction() as connection:
        await records.add(connection, Revocation(1, NOW, NOW + 1, session_id="s"), NOW)
        await records.add(connection, Revocation(2, NOW), NOW + late_ms)
    async with database.connect() as connection:
        assert await connection.scalar(select(func.count()).select_from(table)) == left


async def test_a_revocation_is_not_moved_back_by_a_slow_clock(database: Database) -> None:
    records = RevocationRepository(database)
    async with database.transaction() as connection:
        await records.add(connection, Revocation(1, NOW), NOW)
        await records.add(connection, Revocation(1, NOW - 5), NOW)
    assert await records.since(0, NOW) == (2, [Revocation(1, NOW)])


async def test_what_is_not_recorded_has_not_happened(revocations: Revocations) -> None:
    broken = revocations_of(load_settings().auth, Database("postgresql://127.0.0.1:1/nowhere", 1))
    with pytest.raises(DatabaseUnavailableError):
        await broken.revoke_user(7, reason="test")
    assert not broken.known.covers(principal())


async def test_a_refresh_beside_a_revocation_does_not_slip_through(
    auth: AuthService, revocations: Revocations
) -> None:
    user = await auth.register("alice", PASSWORD)
    for _ in range(8):
        pair = await auth.login("alice", PASSWORD, HERE)
        refreshed, _ = await asyncio.gather(
            auth.refresh(pair.refresh_token, HERE),
            revocations.revoke_user(user.id, reason="test"),
            return_exceptions=True,
        )
        if isinstance(refreshed, BaseException):
            assert isinstance(refreshed, MeetingPushError)
            continue
        with pytest.raises(TokenRevokedError):
            await auth.verify_access_token(refreshed.access_token)
        with pytest.raises(TokenRevokedError):
            await auth.refresh(refreshed.refresh_token, HERE)


async def test_a_revocation_waits_for_a_refresh_that_is_about_to_commit(
    auth: AuthService, revocations: Revocations, database: Database
) -> None:
    user = await auth.register("alice", PASSWORD)
    fresh = RefreshToken(b"x" * 32, "F", user.id, now_ms() + 600_000)
    tokens = RefreshTokenRepository()
    async with database.transaction() as connection:
        await tokens.add(connection, fresh)
        revoking = asyncio.create_task(revocations.revoke_user(user.id, reason="test"))
        await asyncio.wait({revoking}, timeout=0.3)  # 不等的话，这时它早已做完
    await revoking
    async with database.connect() as connection:
        found = await tokens.find(connection, fresh.token_hash)
    assert found is not None
    assert found.revoked_at is not None


async def test_a_verified_token_is_remembered_but_its_revocation_counts(
    auth: AuthService, revocations: Revocations
) -> None:
    token = auth.issue_access_token(7)
    known = await auth.verify_access_token(token)
    await revocations.revoke_token(known, reason="test")
    with pytest.raises(TokenRevokedError):
        await auth.verify_access_token(token)


async def test_a_disabled_account_that_refreshes_is_revoked_everywhere(
    auth: AuthService, revocations: Revocations, database: Database
) -> None:
    await auth.register("alice", PASSWORD)
    pair, other = [await auth.login("alice", PASSWORD, HERE) for _ in range(2)]
    async with database.transaction() as connection:
        await connection.execute(update(users).values(disabled_at=now_ms()))
    with pytest.raises(TokenRevokedError):
        await auth.refresh(pair.refresh_token, HERE)
    with pytest.raises(TokenRevokedError):
        await auth.verify_access_token(other.access_token)


async def test_who_is_erased_is_out_whenever_his_token_was_signed(
    revocations: Revocations, database: Database
) -> None:
    node = another(database)
    await revocations.banish(7, nothing)
    await node.refresh()
    later = principal(issued_at=now_ms() + 10**9)
    assert revocations.known.covers(later)
    assert node.known.covers(later)


async def test_a17_whoever_can_publish_erases_nobody(revocations: Revocations) -> None:
    """A17: 控制频道上说的只管到此刻；永远的只从记录来。"""
    revocations.take(Revoke(revocation=Revocation(7, 2**53 - 1)))
    assert revocations.known.covers(principal(issued_at=now_ms()))
    assert not revocations.known.covers(principal(issued_at=now_ms() + 60_000))


async def nothing(_connection: SqlConnection, _now: int) -> None:
    pass
