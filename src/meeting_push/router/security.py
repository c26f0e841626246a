"""谁在请求：``Authorization: Bearer`` → ``Principal``。"""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from ..contracts import TokenVerifier
from ..errors import AuthenticationError, ForbiddenError
from ..model import Principal

_bearer: Final = HTTPBearer(auto_error=False, bearerFormat="JWT", description="访问令牌")
_Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]


class Security:
    """两个 FastAPI 依赖：``Depends(security.current_principal)``、``…require_admin``。"""

    def __init__(self, verifier: TokenVerifier) -> None:
        self._verifier = verifier

    async def current_principal(self, credentials: _Credentials) -> Principal:
        """:raises AuthenticationError: 401；没有令牌、无效、过期、已吊销，各有其码"""
        if credentials is None:
            raise AuthenticationError("a bearer token is required")
        return await self._verifier.verify_access_token(credentials.credentials)

    async def require_admin(self, credentials: _Credentials) -> Principal:
        """:raises ForbiddenError: 403；不是管理员"""
        principal = await self.current_principal(credentials)
        if not principal.is_admin:
            raise ForbiddenError("administrators only")
        return principal
