"""账号在洪水里（A8、A12、A17）：谁的洪水只淹自己；表有界；容易猜的密码不收。"""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any, Literal

import pytest
from argon2 import PasswordHasher
from sqlalchemy import func, select

from meeting_push.auth import accounts, auth_service
from meeting_push.auth.access_tokens import AccessTokens
from meeting_push.auth.auth_service import AuthService
from meeting_push.auth.passwords import Passwords
from meeting_push.auth.revocations import Revoke
from meeting_push.errors import (
    AuthenticationError,
    BadCredentialsError,
    RateLimitedError,
    TokenRevokedError,
    WeakPasswordError,
)
from meeting_push.model import Principal, Revocation
from meeting_push.settings import load_settings
from meeting_push.storage.database import Database
from meeting_push.storage.tables import refresh_tokens
from tests.support.clocks import WallClock
from tests.support.revoking import revocations_of
from tests.support.server_process import TEST_JWT_SECRET

PASSWORD = "correct horse"
HOME, ELSEWHERE = "192.0.2.1", "198.51.100.7"


@pytest.fixture
def clock() -> WallClock:
    return WallClock(1_800_000_000_000)


def service(database: Database, clock: WallClock, **options: Any) -> AuthService:
    settings = load_settings(**options).auth
    tokens = AccessTokens(settings, TEST_JWT_SECRET, clock)
    return AuthService(
        settings,
        database,
        tokens,
        revocations=revocations_of(settings, database, clock),
        passwords=Passwords(1, 8),
        clock=clock,
    )


@pytest.fixture
def auth(database: Database, clock: WallClock) -> AuthService:
    return service(database, clock)


async def guess(auth: AuthService, name: str, address: str) -> str:
    try:
        await auth.login(name, "wrong horse", address)
    except (BadCredentialsError, RateLimitedError) as error:
        return error.code
    raise AssertionError("it was right")


class Stuck(PasswordHasher):
    """散列到放行为止。"""

    def __init__(self) -> None:
        super().__init__(time_cost=1, memory_cost=8, parallelism=1)
        self.released = threading.Event()

    def hash(self, password: str | bytes, **_: Any) -> str:
        self.released.wait(30)
        return super().hash(password)


# ── A8 ──────────────────────────────────────────────────────────────────────


async def test_a8_a_flood_of_registrations_leaves_logins_alone() -> None:
    """A8: 0.1 里 130 条连接注册，31 次登录 31 次 429。"""
    passwords = Passwords(1, 8)
    stored = await passwords.hash(PASSWORD)
    stuck = passwords._hasher = Stuck()
    flood = [asyncio.create_task(passwords.hash(PASSWORD)) for _ in range(130)]
    await asyncio.sleep(0)
    try:
        right = [await passwords.verify(stored, PASSWORD) for _ in range(31)]
    finally:
        stuck.released.set()
        done = await asyncio.gather(*flood, return_exceptions=True)
    assert right == [True] * 31
    assert sum(isinstance(one, RateLimitedError) for one in done) == 30


async def test_a8_one_address_does_not_fill_a_lane() -> None:
    """A8 的同类：登录的洪水从一个地址来，别的地址照样排得进。"""
    passwords = Passwords(1, 8)
    stored = await passwords.hash(PASSWORD)
    flood = [passwords.verify(None, PASSWORD, HOME) for _ in range(200)]
    *_, honest = await asyncio.gather(
        *flood, passwords.verify(stored, PASSWORD, ELSEWHERE), return_exceptions=True
    )
    assert honest is True


async def test_a14_password_checks_go_by_address_in_turn() -> None:
    """A14: 一个地址排着二十次，别的地址的一次不等它们全部；让着循环的核。"""
    passwords, order, niceness = Passwords(1, 8), list[str](), set[int]()
    stuck, honest_checked = Stuck(), threading.Event()

    class Noted(Stuck):
        def verify(self, hash: str | bytes, password: str | bytes) -> Literal[True]:
            stuck.released.wait(10)
            if password == "honest":
                honest_checked.set()
            elif len(order) >= 3:  # 先轮到的：两个在算的与一个；线程快慢不算
                honest_checked.wait(10)
            order.append(str(password))
            niceness.add(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
            return True

    passwords._hasher = Noted()
    flood = [asyncio.create_task(passwords.verify("x", "flood", HOME)) for _ in range(20)]
    honest = asyncio.create_task(passwords.verify("x", "honest", ELSEWHERE))
    await asyncio.sleep(0)
    gone = asyncio.create_task(passwords.verify("x", "gone", ELSEWHERE))
    await asyncio.sleep(0)
    gone.cancel()
    stuck.released.set()
    await asyncio.gather(*flood, honest)
    assert order.index("honest") < 5
    assert (len(order), "gone" in order) == (21, False)
    assert min(niceness) > os.getpriority(os.PRIO_PROCESS, 0)


async def test_a8_registrations_from_one_address_are_paced(
    database: Database, clock: WallClock
) -> None:
    """A8: 每个地址一秒一个，攒一百；别的地址照常，登录照常。"""
    auth = service(database, clock, registrations_per_address_burst=3)
    for number in range(3):
        await auth.register(f"user{number}", PASSWORD, HOME)
    with pytest.raises(RateLimitedError) as caught:
        await auth.register("user3", PASSWORD, HOME)
    assert caught.value.retry_after_s == 1
    await auth.register("user4", PASSWORD, ELSEWHERE)
    assert await auth.login("user0", PASSWORD, HOME)
    clock.now += 1_000
    assert await auth.register("user5", PASSWORD, HOME)


async def test_a8_the_pace_of_registrations_can_be_set(
    database: Database, clock: WallClock
) -> None:
    unpaced = service(
        database, clock, registrations_per_address_per_s=0, registrations_per_address_burst=1
    )
    for number in range(5):
        await unpaced.register(f"user{number}", PASSWORD, HOME)


# ── A12 ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "address", ["2001:db8::{}", "2001:db8::{}:1%eth0", "::ffff:192.0.2.1", "192.0.2.1"]
)
async def test_a12_guessing_is_counted_by_network(auth: AuthService, address: str) -> None:
    """A12: 一个人就有整个 /64；0.1 里 130 次没有一次被挡。"""
    codes = [await guess(auth, "alice", address.format(number)) for number in range(1, 8)]
    assert codes == ["bad_credentials"] * 5 + ["rate_limited"] * 2


async def test_a12_another_network_is_not_the_same(auth: AuthService) -> None:
    for number in range(1, 7):
        await guess(auth, "alice", f"2001:db8::{number}")
    assert await guess(auth, "alice", "2001:db8:0:1::1") == "bad_credentials"


async def test_a12_guessing_does_not_lock_the_owner_out(auth: AuthService) -> None:
    """A12: 主人从别处照样登录。"""
    await auth.register("alice", PASSWORD)
    for number in range(1, 130):
        await guess(auth, "alice", f"2001:db8::{number}")
    assert await auth.login("alice", PASSWORD, HOME)


async def test_a12_who_knows_his_password_logs_in_beside_a_guesser(auth: AuthService) -> None:
    """A12: 攻击者与他同一个地址，用一百个名字把地址的次数耗尽；看不出哪个名字有人。"""
    for name in ("alice", "bob"):
        await auth.register(name, PASSWORD)
    for number in range(100):
        await guess(auth, f"nobody{number}", HOME)
    for name in ("somebody", "bob"):
        assert await guess(auth, name, HOME) == "rate_limited"
    assert await auth.login("alice", PASSWORD, HOME)


async def test_a12_one_password_can_not_be_tried_on_everybody(
    database: Database, clock: WallClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A12: 有人的名字也不能没完没了地试：到头了，对的密码也不再核对。"""
    monkeypatch.setattr(accounts, "_FAILURES_PER_ADDRESS", 1)
    monkeypatch.setattr(accounts, "_WRONG_PASSWORDS_PER_ADDRESS", 3)
    auth = service(database, clock)
    for number in range(4):
        await auth.register(f"user{number}", PASSWORD)
    await guess(auth, "nobody", HOME)
    for number in range(3):
        await guess(auth, f"user{number}", HOME)
    with pytest.raises(RateLimitedError):
        await auth.login("user3", PASSWORD, HOME)
    assert await auth.login("user3", PASSWORD, ELSEWHERE)


# ── A17：密码 ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "password",
    [
        *("short", "7 chars", "王小明王小明", "12345678", "9876543210123456", "１２３４５６７８"),
        *("password", "Password1", "QWERTYUIOP", "iloveyou", "1q2w3e4r", "letmein1", "Ｐassword"),
    ],
)
async def test_a17_a_weak_password_is_not_accepted(auth: AuthService, password: str) -> None:
    """A17: ``12345678`` 曾被接受。"""
    with pytest.raises(WeakPasswordError) as caught:
        await auth.register("alice", password)
    assert caught.value.code == "weak_password"


@pytest.mark.parametrize(
    "password", ["correct horse", "王小明王小明王小", "tr0ub4dor&3", "x" * 1024]
)
async def test_a17_other_passwords_are(auth: AuthService, password: str) -> None:
    await auth.register("alice", password)
    assert await auth.login("alice", password, HOME)


# ── A17：会话 ────────────────────────────────────────────────────────────────


async def rows(database: Database) -> int:
    async with database.connect() as connection:
        return int(await connection.scalar(select(func.count()).select_from(refresh_tokens)) or 0)


async def test_a17_a_session_that_refreshes_without_end_is_paced(
    auth: AuthService, clock: WallClock
) -> None:
    """A17: 0.1 里一个会话每秒长 34～65 行。被拒的那枚还能用。"""
    await auth.register("alice", PASSWORD)
    pair = await auth.login("alice", PASSWORD, HOME)
    for _ in range(30):
        pair = await auth.refresh(pair.refresh_token, HOME)
    with pytest.raises(RateLimitedError):
        await auth.refresh(pair.refresh_token, HOME)
    clock.now += 60_000
    assert await auth.refresh(pair.refresh_token, HOME)


async def test_a17_used_refresh_tokens_are_bounded_and_reuse_is_still_seen(
    auth: AuthService, database: Database, monkeypatch: pytest.MonkeyPatch, clock: WallClock
) -> None:
    """A17: 一个会话的行有界；最近用过的重放照样吊销整族。"""
    monkeypatch.setattr(auth_service, "_KEPT_USED", 5)
    await auth.register("alice", PASSWORD)
    pair = first = await auth.login("alice", PASSWORD, HOME)
    chain = [first.refresh_token]
    for _ in range(20):
        clock.now += 60_000
        pair = await auth.refresh(pair.refresh_token, HOME)
        chain.append(pair.refresh_token)
    assert await rows(database) == 5 + 1
    with pytest.raises(AuthenticationError):
        await auth.refresh(chain[0], HOME)
    with pytest.raises(TokenRevokedError):
        await auth.refresh(chain[-3], HOME)
    with pytest.raises(TokenRevokedError):
        await auth.refresh(pair.refresh_token, HOME)


async def test_a17_the_sessions_of_one_user_are_bounded(
    auth: AuthService, database: Database, monkeypatch: pytest.MonkeyPatch, clock: WallClock
) -> None:
    """A17: 不停地登录也一样；最早的会话先忘。"""
    monkeypatch.setattr(auth_service, "_KEPT_PER_USER", 4)
    await auth.register("alice", PASSWORD)
    for _ in range(10):
        clock.now += 1_000
        newest = await auth.login("alice", PASSWORD, HOME)
    assert await rows(database) == 4
    assert await auth.refresh(newest.refresh_token, HOME)


# ── A17：吊销 ────────────────────────────────────────────────────────────────


async def test_a17_a_revocation_from_the_future_locks_nobody_out(
    database: Database, clock: WallClock
) -> None:
    """A17: 能 PUBLISH 的人（或钟快的节点）发来 ``before`` 在将来的吊销。"""
    revocations = revocations_of(load_settings().auth, database, clock=clock)
    revocations.take(Revoke(revocation=Revocation(7, clock.now + 10**12)))
    before = Principal(7, "user", clock.now, clock.now + 900_000, "s", "t", "")
    assert revocations.known.covers(before)
    later = clock.now + load_settings().auth.jwt_leeway_s * 1000 + 1
    assert not revocations.known.covers(Principal(7, "user", later, later + 900_000, "s", "t", ""))
