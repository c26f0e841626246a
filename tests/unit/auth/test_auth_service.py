"""``AuthService`` 与它的零件：账号、登录、刷新、限速、密码、密钥文件。"""

from __future__ import annotations

import asyncio
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, select, update

from meeting_push.auth.access_tokens import AccessTokens
from meeting_push.auth.accounts import AttemptWindow
from meeting_push.auth.auth_service import AuthService
from meeting_push.auth.keys import FILE_NAME, load_or_create_secret
from meeting_push.auth.passwords import Passwords
from meeting_push.errors import (
    AccountDisabledError,
    BadCredentialsError,
    ConfigurationError,
    ForbiddenError,
    InvalidInputError,
    InvalidTokenError,
    RateLimitedError,
    TokenExpiredError,
    TokenRevokedError,
    UsernameTakenError,
)
from meeting_push.model import ADMIN_ROLE
from meeting_push.settings import load_settings
from meeting_push.storage.database import Database
from meeting_push.storage.tables import refresh_tokens, users
from tests.support.clocks import WallClock
from tests.support.revoking import revocations_of

SECRET = "0123456789abcdef0123456789abcdef"
NOW = 1_800_000_000_000
HERE = "192.0.2.1"
PASSWORD = "correct horse"


@pytest.fixture
def clock() -> WallClock:
    return WallClock(NOW)


@pytest.fixture
def auth(database: Database, clock: WallClock) -> AuthService:
    return service(database, clock)


@pytest.fixture
async def local(sqlite_url: str, clock: WallClock) -> AsyncIterator[AuthService]:
    """只在 SQLite 上：用于与数据库种类无关的规则。"""
    database = Database(sqlite_url)
    yield service(database, clock)
    await database.dispose()


def fast_passwords(**options: int) -> Passwords:
    return Passwords(time_cost=1, memory_cost_kib=8, **options)


def service(database: Database, clock: WallClock, **options: Any) -> AuthService:
    settings = load_settings(**options).auth
    tokens = AccessTokens(settings, SECRET, clock)
    return AuthService(
        settings,
        database,
        tokens,
        revocations=revocations_of(settings, database, clock),
        passwords=fast_passwords(),
        clock=clock,
    )


async def test_whoever_registers_can_log_in(auth: AuthService) -> None:
    user = await auth.register("alice", PASSWORD)
    pair = await auth.login("ALICE", PASSWORD, HERE)
    principal = await auth.verify_access_token(pair.access_token)
    assert (principal.user_id, principal.role, principal.name) == (user.id, "user", "alice")
    assert principal.session_id is not None


async def test_registration_can_be_turned_off_except_for_operators(
    database: Database, clock: WallClock
) -> None:
    closed = service(database, clock, registration_enabled=False)
    with pytest.raises(ForbiddenError):
        await closed.register("alice", PASSWORD)
    assert (await closed.create_user("root", PASSWORD, ADMIN_ROLE)).role == ADMIN_ROLE


@pytest.mark.parametrize("name", ["bob", "王小明", "a.b_c@d+e-f", "é" * 64, "ｂｏｂ"])
async def test_sensible_usernames_are_accepted(local: AuthService, name: str) -> None:
    await local.register(name, PASSWORD)
    assert await local.login(name, PASSWORD, HERE)


@pytest.mark.parametrize(
    "name",
    ["", "ab", "x" * 65, "a b c", " bob", "bob\n", "b\0b", "b\u200bob", "\ud800xx", "a/b", "ﷺ" * 9],
    ids=ascii,
)
async def test_other_usernames_are_bad_input(local: AuthService, name: str) -> None:
    with pytest.raises(InvalidInputError):
        await local.register(name, PASSWORD)
    with pytest.raises(BadCredentialsError):
        await local.login(name, PASSWORD, HERE)


@pytest.mark.parametrize("password", ["", "short", "x" * 1025, "密" * 342, "\ud800" * 9], ids=ascii)
async def test_too_short_too_long_and_unencodable_passwords_are_bad_input(
    local: AuthService, password: str
) -> None:
    with pytest.raises(InvalidInputError):
        await local.register("alice", password)


@pytest.mark.parametrize("password", ["p" * 8, "密" * 341, "nul\0nul\0", " " * 8])
async def test_any_other_password_works(local: AuthService, password: str) -> None:
    await local.register("alice", password)
    assert await local.login("alice", password, HERE)


async def test_a_name_is_taken_whatever_its_case(auth: AuthService) -> None:
    await auth.register("alice", PASSWORD)
    with pytest.raises(UsernameTakenError):
        await auth.register("Alice", PASSWORD)


@pytest.mark.parametrize(
    ("name", "password"),
    [("alice", "wrong horse"), ("nobody", PASSWORD), ("alice", ""), ("alice", "x" * 5000)],
)
async def test_wrong_credentials_are_refused_without_saying_which(
    local: AuthService, name: str, password: str
) -> None:
    await local.register("alice", PASSWORD)
    with pytest.raises(BadCredentialsError) as caught:
        await local.login(name, password, HERE)
    assert str(caught.value) == "wrong username or password"


async def test_an_unknown_user_costs_as_many_hashes_as_a_known_one(
    database: Database, clock: WallClock
) -> None:
    class Counting(Passwords):
        checked = 0

        def _matches(self, password_hash: str, password: str) -> bool:
            self.checked += 1
            return super()._matches(password_hash, password)

    counting, settings = Counting(1, 8), load_settings().auth
    tokens = AccessTokens(settings, SECRET)
    auth = AuthService(
        settings,
        database,
        tokens,
        revocations=revocations_of(settings, database),
        passwords=counting,
        clock=clock,
    )
    await auth.register("alice", PASSWORD)
    for name in ("alice", "nobody"):
        await fail_to_log_in(auth, 1, name)
    assert counting.checked == 2


async def test_a_disabled_account_can_not_log_in(auth: AuthService, database: Database) -> None:
    await auth.register("alice", PASSWORD)
    async with database.transaction() as connection:
        await connection.execute(update(users).values(disabled_at=NOW))
    with pytest.raises(AccountDisabledError):
        await auth.login("alice", PASSWORD, HERE)


async def fail_to_log_in(auth: AuthService, times: int, name: str = "alice") -> None:
    for _ in range(times):
        with pytest.raises(BadCredentialsError):
            await auth.login(name, "wrong horse", HERE)


async def test_after_five_failures_even_the_right_password_must_wait(
    local: AuthService, clock: WallClock
) -> None:
    await local.register("alice", PASSWORD)
    await fail_to_log_in(local, 5)
    with pytest.raises(RateLimitedError) as caught:
        await local.login("Alice", PASSWORD, HERE)
    assert caught.value.retry_after_s == 300
    assert await local.login("alice", PASSWORD, "192.0.2.99")
    clock.now += 300_000
    assert await local.login("alice", PASSWORD, HERE)


async def test_a_success_forgives_the_failures(local: AuthService) -> None:
    await local.register("alice", PASSWORD)
    for _ in range(3):
        await fail_to_log_in(local, 4)
        await local.login("alice", PASSWORD, HERE)


async def test_concurrent_guesses_do_not_slip_past_the_limit(local: AuthService) -> None:
    await local.register("alice", PASSWORD)
    results = await asyncio.gather(
        *(local.login("alice", "wrong horse", HERE) for _ in range(20)), return_exceptions=True
    )
    assert sum(isinstance(result, BadCredentialsError) for result in results) == 5


async def test_one_address_can_not_try_a_password_on_everybody(local: AuthService) -> None:
    for n in range(100):
        await fail_to_log_in(local, 1, f"user{n}")
    with pytest.raises(RateLimitedError):
        await local.login("user100", PASSWORD, HERE)


async def test_refreshing_gives_new_tokens_of_the_same_session(auth: AuthService) -> None:
    await auth.register("alice", PASSWORD)
    first = await auth.login("alice", PASSWORD, HERE)
    second = await auth.refresh(first.refresh_token, HERE)
    before, after = [await auth.verify_access_token(p.access_token) for p in (first, second)]
    assert second.refresh_token != first.refresh_token
    assert after.session_id == before.session_id
    assert await auth.refresh(second.refresh_token, HERE)


async def test_reusing_a_refresh_token_revokes_the_whole_session(
    auth: AuthService, log: list[str]
) -> None:
    await auth.register("alice", PASSWORD)
    stolen = (await auth.login("alice", PASSWORD, HERE)).refresh_token
    newest = (await auth.refresh(stolen, HERE)).refresh_token
    for token in (stolen, newest, stolen):
        with pytest.raises(TokenRevokedError):
            await auth.refresh(token, HERE)
    assert any("auth_refresh_reused" in line for line in log)


async def test_a_reuse_leaves_other_sessions_alone(auth: AuthService) -> None:
    await auth.register("alice", PASSWORD)
    phone, laptop = [await auth.login("alice", PASSWORD, HERE) for _ in range(2)]
    await auth.refresh(phone.refresh_token, HERE)
    with pytest.raises(TokenRevokedError):
        await auth.refresh(phone.refresh_token, HERE)
    assert await auth.refresh(laptop.refresh_token, HERE)


async def test_of_concurrent_refreshes_at_most_one_wins(auth: AuthService) -> None:
    await auth.register("alice", PASSWORD)
    token = (await auth.login("alice", PASSWORD, HERE)).refresh_token
    results = await asyncio.gather(
        *(auth.refresh(token, HERE) for _ in range(8)), return_exceptions=True
    )
    assert sum(isinstance(result, TokenRevokedError) for result in results) >= 7


@pytest.mark.parametrize("token", ["", "unknown", "é", "\ud800", "x" * 4096], ids=ascii)
async def test_an_unknown_refresh_token_is_invalid(local: AuthService, token: str) -> None:
    with pytest.raises(InvalidTokenError):
        await local.refresh(token[:4096], HERE)


async def test_an_access_token_is_no_refresh_token(local: AuthService) -> None:
    await local.register("alice", PASSWORD)
    pair = await local.login("alice", PASSWORD, HERE)
    with pytest.raises(InvalidTokenError):
        await local.refresh(pair.access_token, HERE)
    with pytest.raises(InvalidTokenError):
        await local.verify_access_token(pair.refresh_token)


async def test_an_old_refresh_token_has_expired(local: AuthService, clock: WallClock) -> None:
    await local.register("alice", PASSWORD)
    token = (await local.login("alice", PASSWORD, HERE)).refresh_token
    clock.now += load_settings().auth.refresh_token_ttl_s * 1000
    with pytest.raises(TokenExpiredError):
        await local.refresh(token, HERE)


@pytest.mark.parametrize("gone", [False, True], ids=["disabled", "deleted"])
async def test_a_disabled_or_deleted_account_can_not_refresh(
    auth: AuthService, database: Database, gone: bool
) -> None:
    await auth.register("alice", PASSWORD)
    token = (await auth.login("alice", PASSWORD, HERE)).refresh_token
    change = delete(users) if gone else update(users).values(disabled_at=NOW)
    async with database.transaction() as connection:
        await connection.execute(change)
    # 删除账号时，它的令牌由外键一并删去
    with pytest.raises(InvalidTokenError if gone else TokenRevokedError):
        await auth.refresh(token, HERE)


async def test_logging_out_ends_the_session(auth: AuthService) -> None:
    await auth.register("alice", PASSWORD)
    pair = await auth.login("alice", PASSWORD, HERE)
    principal = await auth.verify_access_token(pair.access_token)
    await auth.logout(principal)
    await auth.logout(principal)
    with pytest.raises(TokenRevokedError):
        await auth.refresh(pair.refresh_token, HERE)


async def test_a_token_without_a_session_logs_out_harmlessly(local: AuthService) -> None:
    await local.logout(await local.verify_access_token(local.issue_access_token(1)))


async def test_logging_in_clears_away_expired_refresh_tokens(
    auth: AuthService, database: Database, clock: WallClock
) -> None:
    await auth.register("alice", PASSWORD)
    for _ in range(3):
        await auth.login("alice", PASSWORD, HERE)
    clock.now += load_settings().auth.refresh_token_ttl_s * 1000
    await auth.login("alice", PASSWORD, HERE)
    async with database.connect() as connection:
        assert len((await connection.execute(select(refresh_tokens))).all()) == 1


async def test_sec_2_neither_password_nor_token_is_stored_logged_or_shown(
    auth: AuthService, database: Database, log: list[str]
) -> None:
    await auth.register("alice", PASSWORD)
    pair = await auth.login("alice", PASSWORD, HERE)
    await auth.refresh(pair.refresh_token, HERE)
    with pytest.raises(TokenRevokedError):
        await auth.refresh(pair.refresh_token, HERE)
    await fail_to_log_in(auth, 1)
    async with database.connect() as connection:
        stored = [
            (await connection.execute(select(table))).all() for table in (users, refresh_tokens)
        ]
    everything = f"{stored} {log} {pair!r}"
    for secret in (PASSWORD, "wrong horse", pair.refresh_token, pair.access_token):
        assert secret not in everything


async def test_a_failed_login_is_logged_with_name_address_and_reason(
    local: AuthService, log: list[str]
) -> None:
    await local.register("alice", PASSWORD)
    await fail_to_log_in(local, 1, "alice")
    [line] = [line for line in log if line.startswith("auth_login_failed")]
    assert all(word in line for word in ("alice", HERE, "wrong_password"))


async def test_a17_a_name_nobody_has_is_not_logged(local: AuthService, log: list[str]) -> None:
    """A17: 误把密码填进了用户名。"""
    await fail_to_log_in(local, 5, PASSWORD)
    assert [line for line in log if "unknown_user" in line]
    assert PASSWORD not in "".join(log)


async def test_hashing_does_not_block_the_loop() -> None:
    slow = Passwords(time_cost=4, memory_cost_kib=32 * 1024)
    hashing = asyncio.create_task(slow.hash(PASSWORD))
    turns = 0
    while not hashing.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 10


async def test_too_many_waiting_password_checks_are_refused() -> None:
    passwords = fast_passwords(max_waiting=3)
    results = await asyncio.gather(
        *(passwords.verify(None, PASSWORD) for _ in range(5)), return_exceptions=True
    )
    assert sum(isinstance(result, RateLimitedError) for result in results) == 2
    assert await passwords.verify(None, PASSWORD) is False


def test_a_window_slides(clock: WallClock) -> None:
    window = AttemptWindow(2, 1000, clock=clock)
    window.count("k")
    clock.now += 600
    window.count("k")
    with pytest.raises(RateLimitedError) as caught:
        window.check("k")
    assert caught.value.retry_after_s == 1
    clock.now += 400
    window.check("k")


def test_the_memory_of_a_window_is_bounded(clock: WallClock) -> None:
    window = AttemptWindow(1, 1000, max_keys=100, clock=clock)
    for n in range(1_000):
        window.count(f"k{n}")
    assert len(window._times) == 100
    window.check("k0")
    with pytest.raises(RateLimitedError):
        window.check("k999")


def test_the_secret_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    first = load_or_create_secret(tmp_path / "data")
    assert load_or_create_secret(tmp_path / "data") == first
    assert len(first) >= 64
    path = tmp_path / "data" / FILE_NAME
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == [FILE_NAME]


@pytest.mark.parametrize("content", ["", "short", "é" * 40])
def test_a_damaged_secret_file_is_refused_not_replaced(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE_NAME).write_text(content, "utf-8")
    with pytest.raises(ConfigurationError):
        load_or_create_secret(tmp_path)
    assert (tmp_path / FILE_NAME).read_text("utf-8") == content


def test_an_unwritable_data_folder_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError):
        load_or_create_secret(tmp_path / "file")
