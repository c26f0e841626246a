"""公布在 JWKS 地址上的公钥：取来，缓存，跟随轮换。"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

from jwt import PyJWK, PyJWKClient
from jwt.exceptions import PyJWTError
from loguru import logger

from ..errors import ConfigurationError, InvalidTokenError, UnavailableError

FETCH_TIMEOUT_S: Final = 5.0
#: 缓存多久算新鲜；也是一把被撤下的钥匙至多还能用多久。
LIFESPAN_S: Final = 300.0
#: 两次取之间至少隔这么久：编造的 kid 不能让我们不停地去敲那个地址。
COOLDOWN_S: Final = 30.0
#: 上次没取到，而这把钥匙又不认识：隔这么久再取。
RETRY_S: Final = 5.0


class Jwks:
    """``kid`` → 公钥。取不到时继续用旧的。

    :raises ConfigurationError: 地址不是 http(s)
    """

    def __init__(
        self, url: str, algorithms: Sequence[str], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        try:
            self._client = PyJWKClient(url, cache_jwk_set=False, timeout=FETCH_TIMEOUT_S)
        except PyJWTError as error:
            raise ConfigurationError(f"jwt_jwks_url: {error}") from error
        # 绝不接受对称钥匙（kty=oct）：公布出来的“密钥”谁都能拿去签名。
        self._algorithms = frozenset(name for name in algorithms if not name.startswith("HS"))
        self._clock = clock
        self._keys: dict[str, PyJWK] = {}
        self._asked_at = float("-inf")
        self._reachable = True
        self._fetching = asyncio.Lock()

    async def find(self, kid: str) -> PyJWK:
        """:raises InvalidTokenError: 没有这把钥匙
        :raises UnavailableError: 不知道有没有：地址取不到，又没有缓存
        """
        if self._must_ask(kid):
            async with self._fetching:
                if self._must_ask(kid):  # 排队时别人可能已经取过了
                    await self._fetch()
        elif self._is_stale() and not self._fetching.locked():
            # 旧钥匙还能用：只有这一个等，别的不等它。
            async with self._fetching:
                await self._fetch()
        return self._known(kid)

    def _must_ask(self, kid: str) -> bool:
        pause = COOLDOWN_S if self._reachable else RETRY_S
        return kid not in self._keys and self._clock() - self._asked_at >= pause

    def _is_stale(self) -> bool:
        return self._clock() - self._asked_at >= LIFESPAN_S

    def _known(self, kid: str) -> PyJWK:
        key = self._keys.get(kid)
        if key is not None:
            return key
        if self._reachable:
            raise InvalidTokenError("the token is signed with an unknown key")
        raise UnavailableError("the signing keys can not be fetched now")

    async def _fetch(self) -> None:
        self._asked_at = self._clock()
        try:
            keys = await asyncio.to_thread(self._client.get_signing_keys)
        except (PyJWTError, OSError, ValueError) as error:
            self._reachable = False
            logger.bind(error=type(error).__name__).warning("jwks_fetch_failed")
            return
        self._reachable = True
        self._keys = {
            key.key_id: key
            for key in keys
            if key.key_id is not None and key.algorithm_name in self._algorithms
        }
        logger.bind(keys=len(self._keys)).info("jwks_fetched")
