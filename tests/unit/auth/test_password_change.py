"""换密码：别的会话作废，这一个照旧；旧密码与登录记在同一本账上。"""

from __future__ import annotations

import asyncio

import pytest

from meeting_push.auth.auth_service import AuthService, TokenPair
from meeting_push.errors import (
    BadCredentialsError,
    NotFoundError,
    RateLimitedError,
    TokenRevokedError,
    WeakPasswordError,
)
from meeting_push.model import Principal

from .test_auth_service import HERE, PASSWORD, auth, clock, local

__all__ = ["auth", "clock", "local"]

NEW = "battery staple"


async def session(service: AuthService, password: str = PASSWORD) -> tuple[Principal, TokenPair]:
    pair = await service.login("alice", password, HERE)
    return await service.verify_access_token(pair.access_token), pair


async def test_only_the_new_password_logs_in(auth: AuthService) -> None:
    await auth.register("alice", PASSWORD)
    principal, _ = await session(auth)
    await auth.change_password(principal, PASSWORD, NEW, HERE)
    with pytest.raises(BadCredentialsError):
        await auth.login("alice", PASSWORD, HERE)
    assert await auth.login("alice", NEW, HERE)


async def test_the_other_sessions_are_revoked_and_this_one_goes_on(auth: AuthService) -> None:
    await auth.register("alice", PASSWORD)
    (mine, kept), (_, gone) = await session(auth), await session(auth)
    await auth.change_password(mine, PASSWORD, NEW, HERE)
    assert await auth.verify_access_token(kept.access_token)
    assert await auth.refresh(kept.refresh_token, HERE)
    with pytest.raises(TokenRevokedError):
        await auth.verify_access_token(gone.access_token)
    with pytest.raises(TokenRevokedError):
        await auth.refresh(gone.refresh_token, HERE)


async def test_a_wrong_old_password_changes_nothing_and_is_counted(local: AuthService) -> None:
    await local.register("alice", PASSWORD)
    mine, _ = await session(local)
    _, other = await session(local)
    for _ in range(5):
        with pytest.raises(BadCredentialsError):
            await local.change_password(mine, "a wrong one", NEW, HERE)
    with pytest.raises(RateLimitedError):
        await local.change_password(mine, PASSWORD, NEW, HERE)
    with pytest.raises(RateLimitedError):
        await local.login("alice", PASSWORD, HERE)
    assert await local.login("alice", PASSWORD, "192.0.2.99")
    assert await local.verify_access_token(other.access_token)


@pytest.mark.parametrize("new", ["short", "1234567890123", "password1"])
async def test_a_weak_new_password_changes_nothing(local: AuthService, new: str) -> None:
    await local.register("alice", PASSWORD)
    mine, _ = await session(local)
    _, other = await session(local)
    with pytest.raises(WeakPasswordError):
        await local.change_password(mine, PASSWORD, new, HERE)
    assert await local.login("alice", PASSWORD, HERE)
    assert await local.verify_access_token(other.access_token)


async def test_a_token_that_is_no_accounts_can_not_change_one(local: AuthService) -> None:
    stranger = Principal(999, "user", 1, 2)
    with pytest.raises(BadCredentialsError):
        await local.change_password(stranger, PASSWORD, NEW, HERE)


async def test_set_for_him_all_his_tokens_are_void(auth: AuthService) -> None:
    user = await auth.register("alice", PASSWORD)
    _, pair = await session(auth)
    await auth.set_password(user.id, NEW)
    with pytest.raises(TokenRevokedError):
        await auth.verify_access_token(pair.access_token)
    with pytest.raises(TokenRevokedError):
        await auth.refresh(pair.refresh_token, HERE)
    with pytest.raises(BadCredentialsError):
        await auth.login("alice", PASSWORD, HERE)


async def test_there_must_be_an_account_to_set_it_for(local: AuthService) -> None:
    with pytest.raises(NotFoundError):
        await local.set_password(999, NEW)


async def test_whoever_logs_in_while_it_changes_is_not_left_with_the_old_one(
    auth: AuthService,
) -> None:
    """核对过旧密码、还没开始会话的：不是开不成，就是已在吊销之列。"""
    user = await auth.register("alice", PASSWORD)
    tries = [auth.login("alice", PASSWORD, f"192.0.2.{n}") for n in range(8)]
    *answers, _ = await asyncio.gather(
        *tries, auth.set_password(user.id, NEW), return_exceptions=True
    )
    for answer in answers:
        if isinstance(answer, TokenPair):
            with pytest.raises(TokenRevokedError):
                await auth.refresh(answer.refresh_token, HERE)
        else:
            assert isinstance(answer, BadCredentialsError)
