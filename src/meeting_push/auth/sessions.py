"""会话：一次登录得到的一族刷新令牌，每枚只用一次。"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field
from typing import Final, NoReturn

from ulid import ULID

from ..clock import Clock, now_ms
from ..errors import (
    BadCredentialsError,
    InvalidTokenError,
    RateLimitedError,
    TokenExpiredError,
    TokenRevokedError,
)
from ..limits.rate import KeyedBuckets
from ..logs import MANY, RepeatedWarning
from ..settings import AuthSettings
from ..storage.accounts import RefreshTokenRepository, UserRepository
from ..storage.database import Database
from ..storage.rows import RefreshToken, User
from .access_tokens import AccessTokens
from .revocations import Revocations


@dataclass(frozen=True, slots=True)
class TokenPair:
    """登录或刷新的结果。"""

    user_id: int
    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    expires_in_s: int


#: 一个会话多久换一次、攒下几次：令牌十几分钟才到期，再快的是在灌表（A17）。
_RENEWALS_PER_S: Final = 1 / 60
_RENEWALS_BURST: Final = 30
#: 一个会话用过的留这么多，重放才认得出；一个用户至多这么多行，最早的会话先忘。
_KEPT_USED: Final = 1_000
_KEPT_PER_USER: Final = 2_000


class _UsedMeanwhileError(Exception):
    """并发的另一个请求先用了它，或会话刚被吊销。"""


class Sessions:
    def __init__(
        self,
        settings: AuthSettings,
        database: Database,
        access_tokens: AccessTokens,
        revocations: Revocations,
        clock: Clock = now_ms,
    ) -> None:
        self._settings = settings
        self._database = database
        self._access_tokens = access_tokens
        self._revocations = revocations
        self._tokens = RefreshTokenRepository()
        self._users = UserRepository(database)
        self._clock = clock
        self._renewals = KeyedBuckets(_RENEWALS_PER_S, _RENEWALS_BURST)
        self._reused = RepeatedWarning("auth_refresh_reused", lines=MANY)

    async def open(self, user: User) -> TokenPair:
        """开始一族；顺手删掉该用户过期的令牌。

        :raises BadCredentialsError: 核对之后他换了密码、被停用或抹掉了
        """
        refresh, record = self._new(user.id, str(ULID()))
        pair = self._pair(user, refresh, record.family_id)
        async with self._database.transaction() as connection:
            if not await self._tokens.hold(connection, user):
                raise BadCredentialsError("the account changed meanwhile")
            await self._tokens.purge(connection, user.id, self._clock())
            await self._tokens.add(connection, record)
            await self._tokens.keep_newest(connection, user.id, _KEPT_PER_USER)
        return pair

    async def renew(self, refresh_token: str, address: str) -> TokenPair:
        """见 ``AuthService.refresh``。再次出示用过的，说明有两方持有它：整族吊销。"""
        old = await self._usable(_hash(refresh_token), address)
        if not self._renewals.take(old.family_id, self._clock()):
            raise RateLimitedError("the session is refreshed too often", retry_after_s=60)
        user = await self._active_user(old)
        refresh, record = self._new(old.user_id, old.family_id)
        # 签发在提交之前：被同时的吊销算作“之前签发的”，而不是漏过去
        pair = self._pair(user, refresh, old.family_id)
        try:
            await self._replace(old, record)
        except _UsedMeanwhileError:
            await self._refuse_reuse(old, address)
        return pair

    async def _replace(self, old: RefreshToken, new: RefreshToken) -> None:
        """先加新的（它的外键等着正在进行的吊销），再用掉旧的；用不掉则都不算。"""
        async with self._database.transaction() as connection:
            await self._tokens.add(connection, new)
            if not await self._tokens.use(connection, old.token_hash, self._clock()):
                raise _UsedMeanwhileError
            await self._tokens.forget_used(connection, old.family_id, _KEPT_USED)

    async def _usable(self, token_hash: bytes, address: str) -> RefreshToken:
        async with self._database.connect() as connection:
            token = await self._tokens.find(connection, token_hash)
        if token is None:
            raise InvalidTokenError("the refresh token is unknown")
        if token.revoked_at is not None:
            raise TokenRevokedError("the session was revoked")
        if token.used_at is not None:
            await self._refuse_reuse(token, address)
        if token.expires_at <= self._clock():
            raise TokenExpiredError("the refresh token has expired")
        return token

    async def _active_user(self, token: RefreshToken) -> User:
        user = await self._users.by_id(token.user_id)
        if user is None or user.disabled_at is not None:
            await self._revocations.revoke_user(token.user_id, reason="account_disabled")
            raise TokenRevokedError("the account is disabled")
        return user

    async def _refuse_reuse(self, token: RefreshToken, address: str) -> NoReturn:
        self._reused.say(user_id=token.user_id, session_id=token.family_id, address=address)
        await self._revocations.revoke_session(
            token.user_id, token.family_id, reason="refresh_reused"
        )
        raise TokenRevokedError("the refresh token was used before; the session is revoked")

    def _new(self, user_id: int, family_id: str) -> tuple[str, RefreshToken]:
        refresh = secrets.token_urlsafe(32)
        expires_at = self._clock() + self._settings.refresh_token_ttl_s * 1000
        return refresh, RefreshToken(_hash(refresh), family_id, user_id, expires_at)

    def _pair(self, user: User, refresh: str, family_id: str) -> TokenPair:
        ttl_s = self._settings.access_token_ttl_s
        access = self._access_tokens.issue(user.id, user.role, user.username, ttl_s, family_id)
        return TokenPair(user.id, access, refresh, ttl_s)


def _hash(refresh_token: str) -> bytes:
    # 256 位随机数，无须加盐或慢散列。
    return hashlib.sha256(refresh_token.encode("utf-8", "surrogatepass")).digest()
