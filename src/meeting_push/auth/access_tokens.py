"""访问令牌（JWT）的签发与验证；凭据（令牌或票据，不论来自我们还是内嵌的应用）怎样成为身份。

应用自己的令牌验证：它抛出的一切变成我们的几种，令牌的文字不从这里出去（SEC-2）。

验过之后还要问吊销名单：连接与请求的路上只问它，没有 I/O（``revocations.py`` 填它）。
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import jwt
from jwt import PyJWK, PyJWT
from jwt.exceptions import InvalidSignatureError, MissingRequiredClaimError, PyJWTError

from ..clock import Clock, now_ms
from ..contracts import TokenVerifier
from ..errors import (
    ConfigurationError,
    InvalidTokenError,
    TokenExpiredError,
    TokenNotYetValidError,
    TokenRevokedError,
)
from ..model import (
    ADMIN_ROLE,
    KEY_PREFIX,
    RECORDER_ROLE,
    USER_ROLE,
    Keyring,
    Principal,
    Revocation,
)
from ..person_id import NOBODY, PersonId, PersonIds
from ..settings import AuthSettings
from .keys import TokenKeys

if TYPE_CHECKING:  # 命令行签令牌用不着 Redis：裸的安装里没有它
    from .tickets import WsTickets

#: 令牌说的人 → 连同他的号。
Place = Callable[[Principal], Awaitable[Principal]]
MAX_TOKEN_CHARS: Final = 8 * 1024
_MAX_TEXT: Final = 256
_MAX_TIMESTAMP_S: Final = 2**53 // 1000
#: 验过的令牌记多少个、记多久：同一枚再来（一个接一个的请求、断了又连）不再验。
_CACHE_ENTRIES: Final = 10_000
_CACHE_MS: Final = 300_000
#: 早到这么多以内是钟不准，等一等就好（4004）；再多就不是钟的事了（4500）。
MAX_EARLY_MS: Final = 300_000


class AccessTokens:
    """实现 ``contracts.TokenVerifier``；不知道吊销（``RevocableCredentials`` 知道），不需要数据库。

    :raises ConfigurationError: 见 ``TokenKeys``
    """

    def __init__(
        self,
        settings: AuthSettings,
        secret: str | None,
        clock: Clock = now_ms,
        place: Place | None = None,
    ) -> None:
        """:param place: 一段字的 id 怎样有号；没有给（命令行只签不验）就都只能是整数"""
        self._settings = settings
        self._ids = settings.person_ids if place is not None else PersonIds()
        self._place = place
        self._keys = TokenKeys(settings, secret)
        self._clock = clock
        self._leeway_ms = settings.jwt_leeway_s * 1000
        aud = ["aud"] if settings.audience is not None else []
        self._required = ["exp", "iat", *aud]
        # 时间声明自己查：PyJWT 会把 true、"1" 当作数。用户 id 也自己查：它不许 sub 是整数。
        self._decoder = PyJWT(
            {
                "require": self._required,
                "verify_aud": bool(aud),
                "verify_exp": False,
                "verify_iat": False,
                "verify_nbf": False,
                "verify_sub": False,
            }
        )
        # 以散列为键：内存转储里没有令牌。值是 (身份, 从何时起, 到何时为止)；最久没用的在前。
        self._verified: dict[bytes, tuple[Principal, int, int]] = {}

    @property
    def can_issue(self) -> bool:
        return self._keys.signing is not None

    @property
    def keyring(self) -> Keyring:
        """指纹：签发用的与认得的；认不认得还看受众与签发者。"""
        return self._keys.keyring(f"{self._settings.audience}|{self._settings.jwt_issuer}")

    def issue(
        self, user_id: int, role: str, name: str, ttl_s: int, session_id: str | None = None
    ) -> str:
        """:raises ConfigurationError: 允许的算法里没有 HS*，我们没有可签名的钥匙"""
        key = self._keys.signing
        if key is None:
            raise ConfigurationError("issuing tokens needs an HS* algorithm and jwt_secret")
        settings, now = self._settings, self._clock()
        claims: dict[str, object] = {
            settings.jwt_claim_user_id: str(user_id),
            settings.jwt_claim_role: role,
            settings.jwt_claim_name: name,
            # 带毫秒：吊销“此刻之前签发的”时，同一秒里的先后分得清（RFC 7519 允许小数）。
            "iat": now / 1000,
            "exp": -(-now // 1000) + ttl_s,
            "jti": secrets.token_urlsafe(12),
        }
        if settings.audience is not None:
            claims["aud"] = settings.audience
        if settings.jwt_issuer is not None:
            claims["iss"] = settings.jwt_issuer
        if session_id is not None:
            claims[settings.jwt_claim_session] = session_id
        return jwt.encode(claims, key, algorithm=key.algorithm_name)

    async def verify_access_token(self, token: str) -> Principal:
        """见 ``TokenVerifier``。先验签名，后看时间：伪造的过期令牌是无效，不是过期。

        :raises VerifierUnavailableError: 需要的 JWKS 现在取不到；不说明令牌好坏
        """
        principal = self.verify_at_once(token)
        if principal is None:
            now, claims = self._clock(), self._plain_claims(token)
            if claims is None:
                claims = await self._signed_claims(token)
            principal = self._principal(claims, now)
            if principal.subject is not None and self._place is not None:
                principal = await self._place(principal)
            self._remember(_digest(token), principal, now)
        return principal

    def verify_at_once(self, token: str) -> Principal | None:
        """验过的、签得平常的（多半都是）；None：要取钥匙、问号，或坏了，归它说。"""
        if len(token) > MAX_TOKEN_CHARS or not token.isascii():
            raise InvalidTokenError("the token is malformed")
        digest, now = _digest(token), self._clock()
        known = self._verified.pop(digest, None)
        if known is not None and known[1] <= now < known[2]:
            self._verified[digest] = known
            return known[0]
        claims = self._plain_claims(token)
        if claims is None:
            return None
        principal = self._principal(claims, now)
        if principal.subject is not None and self._place is not None:
            return None
        self._remember(digest, principal, now)
        return principal

    def _plain_claims(self, token: str) -> Mapping[str, Any] | None:
        """签得对、样样都有、受众与签发者都相符的；别的由 PyJWT 说是好是坏。"""
        claims, settings = self._keys.plain_claims(token), self._settings
        if claims is None or not all(claims.get(name) for name in self._required):
            return None
        if settings.audience is not None and claims["aud"] != settings.audience:  # 也可以是一列
            return None
        if settings.jwt_issuer is not None and claims.get("iss") != settings.jwt_issuer:
            return None
        return claims if isinstance(claims.get("jti", ""), str) else None

    async def _signed_claims(self, token: str) -> dict[str, Any]:
        said = "the token is invalid: no key"
        for key in await self._keys.find(token):
            try:
                return self._decode(token, key)
            except PyJWTError as error:
                said = _wrong(error)  # 留话不留它：它的回溯指着这一帧，是一个环
                if not isinstance(error, InvalidSignatureError):
                    break
        raise InvalidTokenError(said)

    def _decode(self, token: str, key: PyJWK) -> dict[str, Any]:
        return self._decoder.decode(
            token,
            key,
            algorithms=[key.algorithm_name],
            audience=self._settings.audience,
            issuer=self._settings.jwt_issuer,
        )

    def _principal(self, claims: Mapping[str, Any], now: int) -> Principal:
        settings = self._settings
        issued_at, expires_at = _time(claims, "iat"), _time(claims, "exp")
        not_before = _time(claims, "nbf") if "nbf" in claims else issued_at
        person = self._person(claims)
        principal = Principal(
            user_id=person if isinstance(person, int) else NOBODY,
            role=_role(claims, settings.jwt_claim_role),
            issued_at=issued_at,
            expires_at=expires_at,
            session_id=_text(claims, settings.jwt_claim_session) or None,  # 空的不是会话
            token_id=_text(claims, "jti") or None,
            name=_text(claims, settings.jwt_claim_name) or "",
            subject=person if isinstance(person, str) else None,
        )
        self._require_begun(max(issued_at, not_before) - now)
        if expires_at + self._leeway_ms <= now:
            raise TokenExpiredError("the token has expired")
        return principal

    def _person(self, claims: Mapping[str, Any]) -> PersonId:
        claim = self._settings.jwt_claim_user_id
        value = _claim(claims, claim)
        if value is None:
            raise InvalidTokenError(f"the token has no {claim}")
        person = self._ids.read(value)
        if person is None:
            what = "user id" if self._ids.strings else "positive integer"
            raise InvalidTokenError(f"the token's {claim} is not a {what}")
        return person

    def _require_begun(self, early_ms: int) -> None:
        if early_ms > max(MAX_EARLY_MS, self._leeway_ms):
            raise InvalidTokenError("the token is not valid yet")
        if early_ms > self._leeway_ms:
            raise TokenNotYetValidError("the token is not valid yet: are the clocks right?")

    def _remember(self, digest: bytes, principal: Principal, now: int) -> None:
        """``now`` 是验它的那一刻：钟倒走到这之前，不算数；钥匙撤下的期限也不因记着而变长。"""
        self._verified.pop(digest, None)
        if len(self._verified) >= _CACHE_ENTRIES:
            del self._verified[next(iter(self._verified))]
        lasting_ms = min(_CACHE_MS, self._keys.fresh_s * 1000)
        until = min(principal.expires_at + self._leeway_ms, now + int(lasting_ms))
        self._verified[digest] = (principal, now, until)


def _wrong(error: PyJWTError) -> str:
    if isinstance(error, MissingRequiredClaimError):
        return f"the token has no {error.claim}"
    # 只留类名：PyJWT 的文字可能引用令牌的片段（SEC-2）。
    return f"the token is invalid: {type(error).__name__}"


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _claim(claims: Mapping[str, Any], name: str) -> object:
    """先当名字，后当路径：有的名字自己就有点（``https://app.example/role``）。"""
    if name in claims:
        return claims[name]
    found: object = claims
    for part in name.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def _role(claims: Mapping[str, Any], claim: str) -> str:
    """几个角色里我们认得的、管得最多的那一个；叫 ``role`` 的是我们自己的写法，只有一个。"""
    value = _claim(claims, claim)
    if not isinstance(value, list) or claim == "role":
        return _text(claims, claim) or USER_ROLE
    return next((role for role in (ADMIN_ROLE, RECORDER_ROLE) if role in value), USER_ROLE)


def _time(claims: Mapping[str, Any], claim: str) -> int:
    value = claims[claim]
    if type(value) not in (int, float) or not math.isfinite(value):
        raise InvalidTokenError(f"the token's {claim} is not a time")
    if not 0 < value <= _MAX_TIMESTAMP_S:
        raise InvalidTokenError(f"the token's {claim} is not a time")
    return int(value * 1000)


def _text(claims: Mapping[str, Any], claim: str) -> str | None:
    value = _claim(claims, claim)
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > _MAX_TEXT or "\0" in value:
        raise InvalidTokenError(f"the token's {claim} is not a short text")
    return value


class RevocationList:
    """内存里的吊销名单：整个用户的记着不忘，其余到期就忘。"""

    def __init__(self) -> None:
        #: user_id → 此刻（含）以前签发的都作废。
        self._users: dict[int, int] = {}
        #: (user_id, id) → 记到何时；None 永远。外来的 id 只在一个用户之内唯一。
        self._sessions: dict[tuple[int, str], int | None] = {}
        self._tokens: dict[tuple[int, str], int | None] = {}

    def covers(self, principal: Principal) -> bool:
        user_id = principal.user_id
        before = self._users.get(user_id)
        if before is not None and principal.issued_at <= before:
            return True
        if principal.session_id is not None and (user_id, principal.session_id) in self._sessions:
            return True
        return principal.token_id is not None and (user_id, principal.token_id) in self._tokens

    def check(self, principal: Principal) -> None:
        """:raises TokenRevokedError: 令牌、会话或用户已被吊销"""
        if self.covers(principal):
            raise TokenRevokedError("the token was revoked")

    def add(self, revocation: Revocation) -> bool:
        """已经知道的则 False；幂等，与次序无关。"""
        user_id = revocation.user_id
        if revocation.token_id is not None:
            return _put(self._tokens, (user_id, revocation.token_id), revocation.expires_at)
        if revocation.session_id is not None:
            return _put(self._sessions, (user_id, revocation.session_id), revocation.expires_at)
        if revocation.before <= self._users.get(user_id, 0):
            return False
        self._users[user_id] = revocation.before
        return True

    def forget(self, now: int) -> None:
        """忘掉到期的：它们所指的令牌已经过期。"""
        for known in (self._sessions, self._tokens):
            for key in [key for key, until in known.items() if until is not None and until <= now]:
                del known[key]


def _put(known: dict[tuple[int, str], int | None], key: tuple[int, str], until: int | None) -> bool:
    news = key not in known
    known[key] = until
    return news


class RevocableCredentials:
    """实现 ``contracts.Credentials``。"""

    def __init__(
        self, verifier: TokenVerifier, tickets: WsTickets, revoked: RevocationList
    ) -> None:
        self._verifier = verifier
        self._tickets = tickets
        self._check = revoked.check

    async def verify_access_token(self, token: str) -> Principal:
        """API 密钥不是令牌：不去解，也不交给应用的验证者。"""
        if token.startswith(KEY_PREFIX):
            raise InvalidTokenError("an API key is not a token")
        principal = await self._verifier.verify_access_token(token)
        self._check(principal)
        return principal

    def verify_at_once(self, token: str) -> Principal | None:
        """应用自己的验证总要等它。"""
        if not isinstance(self._verifier, AccessTokens):
            return None
        principal = self._verifier.verify_at_once(token)
        if principal is not None:
            self._check(principal)
        return principal

    async def redeem_ticket(self, ticket: str) -> Principal:
        principal = await self._tickets.redeem(ticket)
        self._check(principal)
        return principal
