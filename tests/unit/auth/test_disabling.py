"""停用与恢复一个账号。"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from meeting_push.accept.drafts import KnownUsers
from meeting_push.auth.auth_service import AuthService
from meeting_push.auth.foreign import Everybody
from meeting_push.errors import (
    AccountDisabledError,
    BadCredentialsError,
    NotFoundError,
    TokenRevokedError,
)
from meeting_push.storage.accounts import UserRepository
from meeting_push.storage.database import Database
from tests.support.clocks import WallClock

from .test_auth_service import HERE, PASSWORD, auth, clock, local

__all__ = ["auth", "clock", "local"]


async def test_only_who_knows_the_password_is_told(auth: AuthService) -> None:
    user = await auth.register("alice", PASSWORD)
    await auth.disable(user.id)
    with pytest.raises(AccountDisabledError) as told:
        await auth.login("alice", PASSWORD, HERE)
    assert told.value.code == "account_disabled"
    with pytest.raises(BadCredentialsError):
        await auth.login("alice", "a wrong one", HERE)


async def test_his_tokens_are_dead_at_once(auth: AuthService) -> None:
    user = await auth.register("alice", PASSWORD)
    pair = await auth.login("alice", PASSWORD, HERE)
    await auth.disable(user.id)
    with pytest.raises(TokenRevokedError):
        await auth.verify_access_token(pair.access_token)
    with pytest.raises(TokenRevokedError):
        await auth.refresh(pair.refresh_token, HERE)


async def test_enabled_again_he_logs_in_and_the_old_tokens_stay_dead(
    auth: AuthService, clock: WallClock
) -> None:
    user = await auth.register("alice", PASSWORD)
    old = await auth.login("alice", PASSWORD, HERE)
    await auth.disable(user.id)
    await auth.disable(user.id)
    await auth.enable(user.id)
    clock.now += 1
    new = await auth.login("alice", PASSWORD, HERE)
    assert await auth.verify_access_token(new.access_token)
    with pytest.raises(TokenRevokedError):
        await auth.verify_access_token(old.access_token)


async def test_nobody_can_not_be_disabled_nor_enabled(local: AuthService) -> None:
    for change in (local.disable, local.enable):
        with pytest.raises(NotFoundError):
            await change(999)


async def test_who_is_disabled_is_no_recipient(auth: AuthService, database: Database) -> None:
    user = await auth.register("alice", PASSWORD)
    known = KnownUsers(UserRepository(database))
    assert await known.existing_ids([user.id]) == {user.id}
    await auth.disable(user.id)
    known.forget(user.id)
    assert await known.existing_ids([user.id]) == set()


async def test_who_is_erased_is_nobody_whatever_the_directory_says() -> None:
    class Says:
        async def existing_ids(self, user_ids: Sequence[int]) -> set[int]:
            return set(user_ids)

    gone: set[int] = set()
    known, everybody = KnownUsers(Says(), gone=gone), Everybody(gone)
    assert await known.existing_ids([7]) == await everybody.existing_ids([7]) == {7}
    gone.add(7)
    known.forget(7)
    for directory in (known, everybody):
        assert await directory.existing_ids([7, 8]) == {8}


async def test_an_answer_asked_for_before_is_not_remembered() -> None:
    """问的时候还在，答的时候已经停用：这一次照旧，下一次重新问。"""

    class Slow:
        async def existing_ids(self, user_ids: object) -> set[int]:
            known.forget(7)
            return {7}

    known = KnownUsers(Slow())
    assert await known.existing_ids([7]) == {7}
    assert known._until == {}
