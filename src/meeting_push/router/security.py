"""谁在请求：``Authorization: Bearer`` → ``Principal``；以及他从哪里来。"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Final

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from ..clock import now_ms
from ..contracts import TokenVerifier
from ..errors import (
    AuthenticationError,
    ForbiddenError,
    InvalidTokenError,
    TokenNotYetValidError,
    TokenRevokedError,
)
from ..limits.forwarded import Network, TrustedProxies, rate_key
from ..limits.rate import KeyedBuckets
from ..logs import MANY, RepeatedWarning
from ..model import Principal

_bearer: Final = HTTPBearer(auto_error=False, bearerFormat="JWT", description="访问令牌")
_Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
#: 每个地址每秒至多记几行、攒几行失败：日志不能成为放大器。
_LOGS_PER_S: Final = 1
_LOGS_BURST: Final = 10


class Security:
    """FastAPI 的依赖：``current_principal``、``require_admin``、``address``。"""

    def __init__(self, verifier: TokenVerifier, trusted_proxies: Iterable[Network] = ()) -> None:
        self._verifier = verifier
        self._proxies = TrustedProxies(trusted_proxies)
        self._log_turns = KeyedBuckets(_LOGS_PER_S, _LOGS_BURST)
        self._failed = RepeatedWarning("rest_auth_failed", lines=MANY)

    def address(self, request: Request) -> str:
        """客户端的地址，用于限速与安全日志。"""
        peer = request.client.host if request.client is not None else "unknown"
        return self._proxies.client_address(peer, request.headers.getlist("x-forwarded-for"))

    async def current_principal(self, request: Request, credentials: _Credentials) -> Principal:
        """:raises AuthenticationError: 401；没有令牌、无效、过期、已吊销，各有其码"""
        if credentials is None:
            raise AuthenticationError("a bearer token is required")
        try:
            principal = await self._verifier.verify_access_token(credentials.credentials)
        except (InvalidTokenError, TokenNotYetValidError, TokenRevokedError) as error:
            # 过期是常事，不记
            self._log_failure(request, error)
            raise
        request.state.principal = principal  # 占了多少内存算在他头上
        return principal

    async def require_admin(self, request: Request, credentials: _Credentials) -> Principal:
        """:raises ForbiddenError: 403；不是管理员"""
        principal = await self.current_principal(request, credentials)
        if not principal.is_admin:
            raise ForbiddenError("administrators only")
        return principal

    def _log_failure(self, request: Request, error: AuthenticationError) -> None:
        address = self.address(request)
        if self._log_turns.take(rate_key(address), now_ms()):
            self._failed.say(address=address, reason=error.code, path=request.url.path)
