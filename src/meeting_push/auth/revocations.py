"""吊销：一枚令牌、一个会话、整个用户，在每个节点上至多两秒之后生效（SEC-1）。

SQL 是记录：先提交，后生效。随后经控制频道告诉各节点（快，但至多一次）；每个节点又定时按版本
取增量，所以漏了消息、Redis 断着、Redis 丢了数据都一样生效。见 ``docs/adr/0005-revocations.md``。
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from ..clock import Clock, now_ms
from ..errors import RedisUnavailableError
from ..logs import MANY, RepeatedWarning
from ..model import MAX_SAFE_INTEGER, Principal, Revocation
from ..node.control_channel import ControlCommand
from ..redis.redis_service import courtesy
from ..settings import AuthSettings
from ..storage.accounts import RefreshTokenRepository, RevocationRepository
from ..storage.database import Database, SqlConnection
from ..supervision import Aside, periodically
from .access_tokens import RevocationList

#: 隔多久忘一次到期的。
_FORGET_MS: Final = 60_000

#: 别人签发的令牌至多当作能活这么久。
_FOREIGN_LIFE_MS: Final = 365 * 86_400_000

#: 有一次吊销刚在本节点生效：同步，不得抛出。
Listener = Callable[[Revocation], None]
#: 在吊销的那个事务里还要做的，连同它的时刻。
Change = Callable[[SqlConnection, int], Awaitable[None]]


class Revoke(ControlCommand, frozen=True, kw_only=True, tag="revoke"):
    """某次吊销已有记录。"""

    revocation: Revocation


class Revocations:
    """``refresh`` 之后可用，``run`` 须由监督者一直运行；没有它们也照样记录（命令行）。

    三种 ``revoke_…`` 都幂等，返回时已有记录、在本节点已生效；没有记录成则抛出
    ``DatabaseUnavailableError``，什么也没有发生。等待可以取消，结果或成或不成。
    """

    def __init__(
        self,
        settings: AuthSettings,
        database: Database,
        *,
        publish: Callable[[ControlCommand], Awaitable[int]],
        aside: Aside,
        clock: Clock = now_ms,
    ) -> None:
        self._database = database
        self._records = RevocationRepository(database)
        self._refresh_tokens = RefreshTokenRepository()
        self._publish = publish
        self._clock = clock
        self._revoked = RepeatedWarning("token_revoked", lines=MANY)
        self._stale = RepeatedWarning("revocations_stale")
        self._not_announced = RepeatedWarning("revocation_not_announced", level="INFO")
        self._period_s = settings.revocation_refresh_s
        self._leeway_ms = settings.jwt_leeway_s * 1000
        self._access_ms = settings.access_token_ttl_s * 1000
        self._foreign_ms = settings.refresh_token_ttl_s * 1000
        #: 没有哪枚令牌还能活得更久：再往后不必记。
        self._longest_ms = max(self._foreign_ms, self._access_ms, _FOREIGN_LIFE_MS)
        #: 本节点所知的。
        self.known = RevocationList()
        self._listeners: list[Listener] = []
        self._version = 0
        self._aside = aside
        self._forgot_at = 0

    def listen(self, listener: Listener) -> None:
        """每次吊销在本节点生效时调用一次。"""
        self._listeners.append(listener)

    # ── 吊销 ────────────────────────────────────────────────────────────────

    async def revoke_user(self, user_id: int, *, reason: str, change: Change | None = None) -> None:
        """此刻以前签发的访问令牌与刷新令牌全部作废；之后登录得到的照常。

        ``change``：同一个事务里还要做的；它抛出则什么也没有发生。
        """
        async with self._database.transaction() as connection:
            await self._refresh_tokens.lock(connection, user_id)
            now = self._clock()  # 锁住之后才看钟：并发的刷新要么已算在内，要么已被挡住
            if change is not None:
                await change(connection, now)
            await self._refresh_tokens.revoke_user(connection, user_id, now)
            revocation = Revocation(user_id, now)
            await self._records.add(connection, revocation, now)
        await self._announce(revocation, "user", reason)

    async def banish(self, user_id: int, change: Change) -> None:
        """这个人抹掉了：他的号永远作废，何时签发的都一样；``change`` 见 ``revoke_user``。"""
        async with self._database.transaction() as connection:
            await self._refresh_tokens.lock(connection, user_id)
            now = self._clock()
            await change(connection, now)
            revocation = Revocation(user_id, MAX_SAFE_INTEGER)
            await self._records.add(connection, revocation, now)
        await self._announce(revocation, "user", "erased", recorded=True)

    async def revoke_other_sessions(
        self, user_id: int, kept: str | None, *, reason: str, change: Change
    ) -> None:
        """除了 ``kept`` 的每一个会话；``change`` 见 ``revoke_user``。"""
        async with self._database.transaction() as connection:
            await self._refresh_tokens.lock(connection, user_id)
            now = self._clock()
            await change(connection, now)
            until = now + self._access_ms + self._leeway_ms
            revoked = []
            for family_id in await self._refresh_tokens.families(connection, user_id):
                if family_id == kept:
                    continue
                await self._refresh_tokens.revoke_family(connection, family_id, now)
                revoked.append(Revocation(user_id, now, until, session_id=family_id))
                await self._records.add(connection, revoked[-1], now)
        for revocation in revoked:
            await self._announce(revocation, "session", reason)

    async def revoke_session(
        self, user_id: int, session_id: str, *, reason: str, expires_at: int = 0
    ) -> None:
        """一族刷新令牌和由它来的访问令牌；``expires_at`` 是所知的最晚过期时刻。"""
        async with self._database.transaction() as connection:
            await self._refresh_tokens.lock(connection, user_id)
            now = self._clock()
            ours = await self._refresh_tokens.revoke_family(connection, session_id, now)
            # 外来的会话：不知道它的令牌能活多久，多记一阵
            until = max(expires_at, now + (self._access_ms if ours else self._foreign_ms))
            revocation = Revocation(user_id, now, until + self._leeway_ms, session_id=session_id)
            await self._records.add(connection, revocation, now)
        await self._announce(revocation, "session", reason)

    async def revoke_token(self, principal: Principal, *, reason: str) -> None:
        """只这一枚；它必须有 ``jti``。"""
        assert principal.token_id is not None, "a token without jti can not be revoked"
        now = self._clock()
        until = principal.expires_at + self._leeway_ms
        revocation = Revocation(principal.user_id, now, until, token_id=principal.token_id)
        async with self._database.transaction() as connection:
            await self._records.add(connection, revocation, now)
        await self._announce(revocation, "token", reason)

    async def _announce(
        self, revocation: Revocation, scope: str, reason: str, *, recorded: bool = False
    ) -> None:
        user_id, session_id = revocation.user_id, revocation.session_id
        self._revoked.say(user_id=user_id, scope=scope, reason=reason, session_id=session_id)
        self._apply(revocation, recorded=recorded)
        try:
            await courtesy(self._publish(Revoke(revocation=revocation)))
        except RedisUnavailableError as error:
            # 各节点自己会来取
            self._not_announced.say(code=error.code, cause=error.cause)

    # ── 得知 ────────────────────────────────────────────────────────────────

    def take(self, command: Revoke) -> None:
        """控制频道上的一次吊销；谁都可能发来，记录里没有的不会再来一次。"""
        self._apply(command.revocation)

    async def refresh(self) -> None:
        """取来还不知道的；第一次即全部。

        :raises DatabaseUnavailableError: 名单保持原样
        """
        now = self._clock()
        version, found = await self._records.since(self._version, now)
        # 一条坏了不连累别的：名单少一条，就有一枚作废的令牌还能用
        await self._aside.isolate(found, self._apply_all, lambda one: one.user_id)
        self._version = version
        if now - self._forgot_at >= _FORGET_MS:
            self._forgot_at = now
            self.known.forget(now)

    async def _apply_all(self, found: Sequence[Revocation]) -> None:
        for revocation in found:
            self._apply(revocation, recorded=True)

    async def run(self) -> None:
        """监督者运行的循环体；永不返回。数据库断着时用已知的名单，控制频道照样收。"""
        await periodically(self.refresh, partial(asyncio.sleep, self._period_s), self._stale)

    def _apply(self, revocation: Revocation, *, recorded: bool = False) -> None:
        """“以前”不会比此刻更晚（容差之内的令牌才收）：写在将来的会把人锁在外面（A17）。

        ``recorded``：从记录来的，才信它说人抹掉了。
        """
        now = self._clock()
        latest = MAX_SAFE_INTEGER if recorded and revocation.is_erasure else now + self._leeway_ms
        revocation = replace(
            revocation,
            before=min(revocation.before, latest),
            expires_at=_soon(revocation.expires_at, now + self._longest_ms),
        )
        if self.known.add(revocation):
            for listener in self._listeners:
                listener(revocation)


def _soon(until: int | None, latest: int) -> int | None:
    return None if until is None else min(until, latest)
