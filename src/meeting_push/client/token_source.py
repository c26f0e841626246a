"""令牌从哪来：一个固定的字符串，或每次连接都问一遍的回调。"""

from __future__ import annotations

import base64
import inspect
import time
from collections.abc import Awaitable, Callable

import msgspec

from .errors import TokenUnreadableError

#: 固定的字符串过期后没有替换；回调可以是同步的，也可以是协程函数。
TokenSource = str | Callable[[], str | Awaitable[str]]


async def obtain(source: TokenSource) -> str:
    """此刻该用的令牌；回调的异常原样传出。"""
    if isinstance(source, str):
        return source
    token = source()
    return await token if inspect.isawaitable(token) else token


def user_id_in(token: str, claim: str) -> int:
    """JWT 里说的用户 id，不验证签名：验证是服务器的事，这里只为拼出 URL。

    :raises TokenUnreadableError: 不是 JWT，或没有这个整数声明；消息里不含令牌
    """
    try:
        return int(str(_claims(token)[claim]))
    except (ValueError, KeyError):
        raise TokenUnreadableError(
            f"no integer claim {claim!r} in the token; pass user_id"
        ) from None


def lasts(token: str) -> bool:
    """它自己说的到期时刻还没到：被拒（4004）就是钟不准，等一等会好。看不懂的算到期了。"""
    expires_at = _claims(token).get("exp")
    return isinstance(expires_at, int | float) and expires_at > time.time()


def _claims(token: str) -> dict[str, object]:
    """JWT 的声明，不验证；不是 JWT 就是空的。"""
    try:
        payload = token.split(".")[1]
        return msgspec.json.decode(
            base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)),
            type=dict[str, object],
        )
    except (IndexError, ValueError, msgspec.DecodeError):
        return {}
