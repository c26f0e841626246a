"""``TokenKeeper``：替应用登录、按时刷新，是 ``PushClient`` 与 ``RestClient`` 的令牌回调。"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from .errors import ApiError
from .rest_answers import Tokens
from .rest_client import RestClient

#: 剩下不到这么久就换新的；要比服务器发 ``token_expiring`` 的提前量（60 秒）长，
#: 否则那时给出的还是旧的。
REFRESH_BEFORE_S: Final = 90


class TokenKeeper:
    """可并发调用：同时只有一次登录或刷新在路上（刷新令牌是轮换的，用两次会吊销整族）。"""

    def __init__(
        self,
        rest: RestClient,
        username: str,
        password: str,
        *,
        refresh_before_s: float = REFRESH_BEFORE_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``clock`` 用墙上时间：单调时钟在机器休眠时不走，醒来会把过期的当作有效。"""
        self._rest = rest
        self._username = username
        self._password = password
        self._refresh_before_s = refresh_before_s
        self._clock = clock
        self._lock = asyncio.Lock()
        self._tokens: Tokens | None = None
        self._expires_at = 0.0

    async def __call__(self) -> str:
        """此刻有效的访问令牌。

        :raises ApiError: 用户名密码不对等；``temporary`` 为真才值得再试
        :raises ServerUnreachableError: 没有回答，稍后再试
        """
        async with self._lock:
            if self._tokens is None:
                return self._keep(await self._login())
            if self._clock() < self._expires_at - self._refresh_before_s:
                return self._tokens.access_token
            return self._keep(await self._renew(self._tokens))

    def _keep(self, tokens: Tokens) -> str:
        self._tokens = tokens
        self._expires_at = self._clock() + tokens.expires_in_s
        return tokens.access_token

    async def _login(self) -> Tokens:
        return await self._rest.login(self._username, self._password)

    async def _renew(self, tokens: Tokens) -> Tokens:
        """刷新；刷新令牌已不被承认（过期、吊销）就重新登录。"""
        # 一旦送出，旧的刷新令牌就可能已经用掉：取消或没有回答时，下次从登录开始
        self._tokens = None
        try:
            return await self._rest.refresh(tokens.refresh_token)
        except ApiError as error:
            if not error.temporary:
                return await self._login()
            self._tokens = tokens  # 服务器说什么都没做
            raise
