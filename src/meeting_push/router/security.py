"""谁在问：人的令牌，或后端的 API 密钥；哪一种能走哪一条路。

没有说密钥能走的路，密钥走不了：``current_principal`` 只认人，别的说出要哪个范围。
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Annotated, Final

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from ..auth.api_keys import ApiKeys
from ..clock import now_ms
from ..contracts import TokenVerifier
from ..errors import (
    AuthenticationError,
    BadKeyError,
    ForbiddenError,
    InvalidTokenError,
    ScopeError,
    TokenNotYetValidError,
    TokenRevokedError,
)
from ..limits.rate import KeyedBuckets, Network, TrustedProxies, rate_key
from ..logs import MANY, RepeatedWarning
from ..model import KEY_PREFIX, KeyPrincipal, Principal, Scope

_bearer: Final = HTTPBearer(auto_error=False, bearerFormat="JWT", description="访问令牌")
#: 同一个头；OpenAPI 里是另一种，说的是哪些路密钥也能走。
_key: Final = HTTPBearer(
    auto_error=False, bearerFormat="mpk_…", scheme_name="ApiKey", description="后端的 API 密钥"
)
_Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
_KeyToo = Annotated[HTTPAuthorizationCredentials | None, Depends(_key)]
#: ASGI scope 里通过了认证的人；``request.state`` 每个请求另造两个对象，约 3 µs。
PRINCIPAL: Final = "meeting_push.principal"
Guard = Callable[..., Awaitable[Principal]]
#: 每个地址每秒至多记几行、攒几行失败：日志不能成为放大器。
_LOGS_PER_S: Final = 1
_LOGS_BURST: Final = 10


class Security:
    """FastAPI 的依赖：``current_principal``、``require_admin``、``allowing(…)``、``address``。"""

    def __init__(
        self,
        verifier: TokenVerifier,
        trusted_proxies: Iterable[Network] = (),
        keys: ApiKeys | None = None,
    ) -> None:
        """:param keys: 没有的，哪一枚密钥都不对"""
        self._verifier = verifier
        self._keys = keys
        self._proxies = TrustedProxies(trusted_proxies)
        self._log_turns = KeyedBuckets(_LOGS_PER_S, _LOGS_BURST)
        self._failed = RepeatedWarning("rest_auth_failed", lines=MANY)

    def address(self, request: Request) -> str:
        """用于限速与安全日志。"""
        return address_of(request, self._proxies)

    async def current_principal(self, request: Request, credentials: _Credentials) -> Principal:
        """一个人。

        :raises AuthenticationError: 401；没有令牌、无效、过期、已吊销，各有其码
        :raises ScopeError: 403；是一枚密钥，不是人
        """
        principal = await self._principal(request, _token(credentials))
        if isinstance(principal, KeyPrincipal):
            raise ScopeError("an API key is nobody: this needs a person's token")
        return principal

    async def require_admin(
        self, request: Request, credentials: _Credentials, _too: _KeyToo
    ) -> Principal:
        """管理员，或范围有 admin 的密钥。

        :raises ForbiddenError: 403；不是管理员
        :raises ScopeError: 403；密钥没有这个范围
        """
        return await self._admin(request, credentials, ())

    def allowing(self, *scopes: Scope) -> Guard:
        """依赖：人，或有 ``scopes`` 之一（或 admin）的密钥。"""

        async def allowed(request: Request, credentials: _Credentials, _too: _KeyToo) -> Principal:
            return _scoped(await self._principal(request, _token(credentials)), scopes)

        return allowed

    def admin_or(self, *scopes: Scope) -> Guard:
        """依赖：管理员，或有 ``scopes`` 之一（或 admin）的密钥。"""

        async def allowed(request: Request, credentials: _Credentials, _too: _KeyToo) -> Principal:
            return await self._admin(request, credentials, scopes)

        return allowed

    async def principal_of(self, request: Request, *scopes: Scope) -> Principal:
        """同 ``allowing``，不经框架（热路）；怎样读头同 FastAPI 的 ``HTTPBearer``。"""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else None
        return _scoped(await self._principal(request, given), scopes)

    async def _admin(
        self,
        request: Request,
        credentials: HTTPAuthorizationCredentials | None,
        scopes: tuple[Scope, ...],
    ) -> Principal:
        principal = await self._principal(request, _token(credentials))
        if isinstance(principal, KeyPrincipal):
            return _scoped(principal, scopes)
        if not principal.is_admin:
            raise ForbiddenError("administrators only")
        return principal

    async def _principal(self, request: Request, token: str | None) -> Principal:
        if not token:
            raise AuthenticationError("a bearer token is required")
        try:
            principal = await self._verified(token)
        except (BadKeyError, InvalidTokenError, TokenNotYetValidError, TokenRevokedError) as error:
            # 过期是常事，不记
            self._log_failure(request, error)
            raise
        request.scope[PRINCIPAL] = principal  # 占了多少内存算在他头上
        return principal

    async def _verified(self, token: str) -> Principal:
        if not token.startswith(KEY_PREFIX):
            return await self._verifier.verify_access_token(token)
        if self._keys is None:
            raise BadKeyError("API keys are not known here")
        return await self._keys.verify(token)

    def _log_failure(self, request: Request, error: AuthenticationError) -> None:
        address = self.address(request)
        if self._log_turns.take(rate_key(address), now_ms()):
            self._failed.say(address=address, reason=error.code, path=request.url.path)


def _token(credentials: HTTPAuthorizationCredentials | None) -> str | None:
    return None if credentials is None else credentials.credentials


def _scoped(principal: Principal, scopes: tuple[Scope, ...]) -> Principal:
    """人总可以；密钥要有其中之一。"""
    if isinstance(principal, KeyPrincipal) and not principal.may(*scopes):
        wanted = " or ".join(dict.fromkeys((*scopes, "admin")))
        raise ScopeError(f"this API key lacks the scope {wanted}")
    return principal


def address_of(request: Request, proxies: TrustedProxies) -> str:
    peer = request.client.host if request.client is not None else "unknown"
    return proxies.client_address(peer, request.headers.getlist("x-forwarded-for"))
