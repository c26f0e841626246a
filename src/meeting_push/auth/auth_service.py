"""认证服务：账号、登录、令牌；会话：一次登录得到的一族刷新令牌，每枚只用一次。"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field
from typing import Final, NoReturn

from ulid import ULID

from ..clock import Clock, now_ms
from ..errors import (
    AuthenticationError,
    BadCredentialsError,
    ForbiddenError,
    InvalidTokenError,
    RateLimitedError,
    TokenExpiredError,
    TokenRevokedError,
)
from ..limits.rate import KeyedBuckets, rate_key
from ..logs import MANY, RepeatedWarning
from ..model import USER_ROLE, Principal
from ..redis.redis_service import RedisService
from ..settings import AuthSettings
from ..storage.accounts import RefreshTokenRepository, UserRepository
from ..storage.database import Database, SqlConnection
from ..storage.rows import RefreshToken, User
from .access_tokens import AccessTokens
from .accounts import Accounts
from .passwords import Passwords
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


class AuthService:
    """需求里的 AuthService；实现 ``contracts.TokenVerifier``。

    只需验证外来令牌的应用用 ``AccessTokens`` 就够了。没有 ``redis`` 时登录失败只在本进程里数。
    """

    def __init__(
        self,
        settings: AuthSettings,
        database: Database,
        access_tokens: AccessTokens,
        *,
        revocations: Revocations,
        redis: RedisService | None = None,
        passwords: Passwords | None = None,
        clock: Clock = now_ms,
    ) -> None:
        self._settings = settings
        self._database = database
        self._clock = clock
        self._registrations = KeyedBuckets(
            settings.registrations_per_address_per_s, settings.registrations_per_address_burst
        )
        self._access_tokens = access_tokens
        self._revocations = revocations
        self._users = UserRepository(database)
        self._accounts = Accounts(self._users, passwords or Passwords(), clock, redis)
        self._logged_in = RepeatedWarning("auth_login", lines=MANY, level="INFO")
        self._logged_out = RepeatedWarning("auth_logout", lines=MANY, level="INFO")
        self._without_id = RepeatedWarning("auth_logout_without_id", lines=MANY)
        self._changed = RepeatedWarning("auth_password_changed", lines=MANY, level="INFO")
        self._disabled = RepeatedWarning("auth_user_disabled", lines=MANY, level="INFO")
        self._enabled = RepeatedWarning("auth_user_enabled", lines=MANY, level="INFO")
        self._not_refreshed = RepeatedWarning("auth_refresh_failed", lines=MANY)
        self._sessions = Sessions(settings, database, access_tokens, self._revocations, clock)

    async def register(self, username: str, password: str, address: str = "") -> User:
        """``address`` 是客户端地址，用于限速；没有就不限。

        :raises ForbiddenError: 注册已关闭；其余同 ``create_user``
        :raises RateLimitedError: 这个地址注册得太快，或排队的太多
        """
        if not self._settings.registration_enabled:
            raise ForbiddenError("registration is turned off")
        self._require_turn(address)
        return await self._accounts.create(username, password, USER_ROLE, address)

    def _require_turn(self, address: str) -> None:
        place, now = rate_key(address), self._clock()
        if not place or self._settings.registrations_per_address_per_s == 0:
            return
        if not self._registrations.take(place, now):
            wait_s = -(-self._registrations.wait_ms(place, 1, now) // 1000)
            raise RateLimitedError("too many registrations", retry_after_s=max(1, int(wait_s)))

    async def create_user(self, username: str, password: str, role: str = USER_ROLE) -> User:
        """建立账号，不问注册是否开放。

        :raises InvalidInputError: 用户名（3～64 个字母、数字或 ``. _ @ + -``）或
            密码（至多 1024 字节）不合规
        :raises WeakPasswordError: 密码太容易猜
        :raises UsernameTakenError: 同名，不分大小写与全半角
        """
        return await self._accounts.create(username, password, role)

    async def login(self, username: str, password: str, address: str) -> TokenPair:
        """``address`` 是客户端地址，用于限速与安全日志。

        :raises BadCredentialsError: 用户名或密码不对
        :raises AccountDisabledError: 密码对，账号停用着
        :raises RateLimitedError: 同一用户名与地址 5 分钟内失败 5 次
        """
        user = await self._accounts.authenticate(username, password, address)
        pair = await self._sessions.open(user)
        self._logged_in.say(user_id=user.id, address=address)
        return pair

    async def refresh(self, refresh_token: str, address: str) -> TokenPair:
        """旧的刷新令牌换一对新的；每枚只能用一次，再用则整个会话被吊销。

        :raises InvalidTokenError: 没有这枚
        :raises TokenExpiredError: 过期
        :raises TokenRevokedError: 已吊销、用过，或账号已停用
        :raises RateLimitedError: 这个会话换得太勤；旧的还能用
        """
        try:
            return await self._sessions.renew(refresh_token, address)
        except AuthenticationError as error:
            self._not_refreshed.say(address=address, reason=error.code)
            raise

    async def logout(self, principal: Principal) -> None:
        """吊销这个会话，它的连接随之关闭；幂等。

        没有会话的（外来）令牌只吊销这一枚；连 ``jti`` 也没有的无从指认，等它过期。
        """
        if principal.session_id is not None:
            await self._revocations.revoke_session(
                principal.user_id,
                principal.session_id,
                reason="logout",
                expires_at=principal.expires_at,
            )
        elif principal.token_id is not None:
            await self._revocations.revoke_token(principal, reason="logout")
        else:
            self._without_id.say(user_id=principal.user_id)
        self._logged_out.say(user_id=principal.user_id, session_id=principal.session_id)

    # ── 换密码、停用 ─────────────────────────────────────────────────────────

    async def change_password(
        self, principal: Principal, old: str, new: str, address: str = ""
    ) -> None:
        """本人换密码：别的会话全部吊销，连接以 4502 关闭；这一个照旧。

        旧密码不对与登录失败记在同一本账上。

        :raises BadCredentialsError: 旧密码不对，或令牌不是我们的哪个账号的
        :raises InvalidInputError: 新密码不合规，``WeakPasswordError`` 也是；什么也没有变
        :raises RateLimitedError: 5 分钟内失败太多
        """
        known = await self._users.by_id(principal.user_id)
        if known is None:
            raise BadCredentialsError("wrong password")
        user = await self._accounts.authenticate(known.username, old, address)
        password_hash = await self._accounts.hash(new, address)

        async def change(connection: SqlConnection, _now: int) -> None:
            await self._users.set_password(connection, user.id, password_hash)

        await self._revocations.revoke_other_sessions(
            user.id, principal.session_id, reason="password_changed", change=change
        )
        self._changed.say(user_id=user.id, address=address)

    async def set_password(self, user_id: int, new: str) -> None:
        """替他换：不问旧的；他的令牌全部作废。

        :raises NotFoundError: 没有这个人
        :raises InvalidInputError: 密码不合规，``WeakPasswordError`` 也是
        """
        password_hash = await self._accounts.hash(new)

        async def change(connection: SqlConnection, _now: int) -> None:
            await self._users.set_password(connection, user_id, password_hash)

        await self._revocations.revoke_user(user_id, reason="password_changed", change=change)
        self._changed.say(user_id=user_id)

    async def disable(self, user_id: int) -> None:
        """停用：不能登录，令牌作废，连接以 4502 关闭，发给他是 422 ``unknown_recipients``；幂等。

        他的消息都留着。

        :raises NotFoundError: 没有这个人
        """

        async def change(connection: SqlConnection, now: int) -> None:
            await self._users.set_disabled(connection, user_id, now)

        await self._revocations.revoke_user(user_id, reason="account_disabled", change=change)
        self._disabled.say(user_id=user_id)

    async def enable(self, user_id: int) -> None:
        """又可以登录、可以收；停用前的令牌仍是作废的。幂等。

        :raises NotFoundError: 没有这个人
        """
        async with self._database.transaction() as connection:
            await self._users.set_disabled(connection, user_id, None)
        self._enabled.say(user_id=user_id)

    # ── 令牌 ────────────────────────────────────────────────────────────────

    def issue_access_token(
        self,
        user_id: int,
        role: str = USER_ROLE,
        name: str = "",
        ttl_s: int | None = None,
        session_id: str | None = None,
    ) -> str:
        """签发一枚访问令牌；``ttl_s`` 为 None 取 ``access_token_ttl_s``。

        :raises ConfigurationError: 允许的算法里没有 HS*
        """
        lifetime = self._settings.access_token_ttl_s if ttl_s is None else ttl_s
        return self._access_tokens.issue(user_id, role, name, lifetime, session_id)

    async def verify_access_token(self, token: str) -> Principal:
        """见 ``contracts.TokenVerifier``；没有 SQL。"""
        principal = await self._access_tokens.verify_access_token(token)
        self._revocations.known.check(principal)
        return principal
