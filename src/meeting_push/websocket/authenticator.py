"""握手的认证：从哪里取令牌、来源可否、令牌是不是路径上这位用户的。"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

from loguru import logger

from ..contracts import TokenVerifier
from ..errors import (
    ForbiddenError,
    InvalidTokenError,
    MeetingPushError,
    TokenExpiredError,
    TokenRevokedError,
)
from ..model import Principal
from ..protocol.codes import CloseCode
from ..protocol.frames import BEARER_SUBPROTOCOL_PREFIX
from .handshake import Handshake, clean

MAX_TOKEN_CHARS: Final = 8192
MAX_ORIGIN_CHARS: Final = 128  # 写进日志的
ANY_ORIGIN: Final = "*"
_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}


def extract_token(handshake: Handshake) -> str:
    """令牌，先找到者胜：Authorization 头 · 子协议 · ``?token=``。

    同一处给出两个不同的令牌有歧义，当作没有证明自己是谁。

    :raises InvalidTokenError: 没有、有歧义、过长或不是 ASCII
    """
    for candidates in (
        _bearer_headers(handshake),
        _bearer_subprotocols(handshake),
        {value for name, value in handshake.fields() if name == "token"},
    ):
        if candidates:
            return _only(candidates)
    raise InvalidTokenError("no token")


def _bearer_headers(handshake: Handshake) -> set[str]:
    parts = (value.partition(" ") for value in handshake.header_values("authorization"))
    return {token.strip() for scheme, _, token in parts if scheme.lower() == "bearer"}


def _bearer_subprotocols(handshake: Handshake) -> set[str]:
    prefix = BEARER_SUBPROTOCOL_PREFIX
    return {name[len(prefix) :] for name in handshake.subprotocols() if name.startswith(prefix)}


def _only(candidates: set[str]) -> str:
    if len(candidates) > 1:
        raise InvalidTokenError("ambiguous token")
    token = candidates.pop()
    if not token or len(token) > MAX_TOKEN_CHARS or not token.isascii():
        raise InvalidTokenError("malformed token")
    return token


def close_code_for(error: MeetingPushError) -> CloseCode:
    """认证失败的关闭码；依赖暂时不可用（如取不到公钥）是可重连的 4007。"""
    match error:
        case TokenExpiredError():
            return CloseCode.TOKEN_EXPIRED
        case TokenRevokedError():
            return CloseCode.REVOKED
        case ForbiddenError():
            return CloseCode.FORBIDDEN
        case _ if error.temporary:
            return CloseCode.NODE_UNHEALTHY
        case _:
            return CloseCode.INVALID_TOKEN


class Authenticator:
    """``allowed_origins`` 为空时只许同源；含 ``*`` 则不限。"""

    def __init__(self, verifier: TokenVerifier, allowed_origins: Iterable[str] = ()) -> None:
        self._verifier = verifier
        self._origins = frozenset(_normal_origin(origin) for origin in allowed_origins)

    def origin_allowed(self, handshake: Handshake) -> bool:
        """升级之前的检查（防跨站劫持，LESSONS 10）；不通过则 HTTP 403。

        没有 Origin 的不是浏览器，放行；``null``（沙箱、file:）只有明列才许。
        """
        origins = handshake.header_values("origin")
        host = handshake.header("host")
        forbidden = [origin for origin in origins if not self._allowed(origin, host)]
        if forbidden:
            logger.bind(
                user_id=handshake.user_id,
                ip_address=handshake.ip_address,
                origin=clean(forbidden[0], MAX_ORIGIN_CHARS),
            ).warning("ws_origin_forbidden")
        return not forbidden

    def _allowed(self, origin: str, host: str | None) -> bool:
        if ANY_ORIGIN in self._origins or _normal_origin(origin) in self._origins:
            return True
        return host is not None and _same_host(origin, host)

    async def authenticate(self, handshake: Handshake) -> Principal:
        """路径上的用户必须就是令牌的用户，管理员也不例外。

        :raises MeetingPushError: 见 ``close_code_for``；失败已记入安全日志，不含令牌
        """
        try:
            return await self._verify(extract_token(handshake), handshake.user_id)
        except MeetingPushError as error:
            _log_failure(handshake.user_id, handshake.ip_address, error)
            raise

    async def refresh(self, token: str, user_id: int, ip_address: str) -> Principal:
        """同一条连接在线换令牌；要求与失败同 ``authenticate``。"""
        try:
            return await self._verify(_only({token}), user_id)
        except MeetingPushError as error:
            _log_failure(user_id, ip_address, error)
            raise

    async def _verify(self, token: str, user_id: int) -> Principal:
        principal = await self._verifier.verify_access_token(token)
        if principal.user_id != user_id:
            raise ForbiddenError("the token belongs to another user")
        return principal


def _log_failure(user_id: int, ip_address: str, error: MeetingPushError) -> None:
    logger.bind(user_id=user_id, ip_address=ip_address, reason=error.code).warning("ws_auth_failed")


def _normal_origin(origin: str) -> str:
    return origin.strip().rstrip("/").lower()


def _same_host(origin: str, host: str) -> bool:
    """Origin 的主机与端口就是 Host；默认端口可省。TLS 常在前面的代理上，所以不比协议。"""
    try:
        parts = urlsplit(_normal_origin(origin))
    except ValueError:
        return False
    default = _DEFAULT_PORTS.get(parts.scheme)
    if default is None or not parts.netloc:
        return False
    return parts.netloc.removesuffix(default) == host.lower().removesuffix(default)
