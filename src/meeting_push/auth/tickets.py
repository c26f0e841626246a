"""WebSocket 的票据：浏览器不能设请求头，又不该把令牌写进 URL；票据只用一次，只活片刻。"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field
from typing import Final

import msgspec

from ..clock import Clock, now_ms
from ..errors import InvalidTokenError, RateLimitedError
from ..limits.rate import KeyedBuckets
from ..model import Principal
from ..redis.redis_service import RedisService

#: 每个用户每秒几张、攒几张：够二十台设备一起重连，又填不满 Redis。
_PER_S: Final = 10
_BURST: Final = 50

_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(Principal)


@dataclass(frozen=True, slots=True)
class Ticket:
    """``expires_in_s`` 不超过令牌余下的时间。"""

    ticket: str = field(repr=False)
    expires_in_s: int


class WsTickets:
    """Redis 里以散列为键：看得到 Redis 的人也拿不到可用的票据。"""

    def __init__(self, redis: RedisService, ttl_s: int, clock: Clock = now_ms) -> None:
        self._redis = redis
        self._ttl_s = ttl_s
        self._clock = clock
        self._rate = KeyedBuckets(_PER_S, _BURST)

    async def issue(self, principal: Principal) -> Ticket:
        """带着令牌的一切：用户、角色、会话、签发与过期时刻，所以吊销令牌也吊销票据。

        :raises RateLimitedError: 要得太快
        :raises RedisUnavailableError: 没有发出
        """
        now = self._clock()
        if not self._rate.take(principal.user_id, now):
            raise RateLimitedError("too many tickets")
        ticket = secrets.token_urlsafe(24)
        # 令牌过期后还有几秒宽限：票据至少活一秒
        ttl_ms = max(1000, min(self._ttl_s * 1000, principal.expires_at - now))
        await self._redis.put(self._key(ticket), _encoder.encode(principal), ttl_ms)
        return Ticket(ticket, ttl_ms // 1000)

    async def redeem(self, ticket: str) -> Principal:
        """至多成功一次，并发也一样。

        :raises InvalidTokenError: 没有这一张：用过、过期、从来没有，三者分不出
        :raises RedisUnavailableError: 不知道；这张也许已经用掉了
        """
        value = await self._redis.take(self._key(ticket))
        if value is None:
            raise InvalidTokenError("the ticket is unknown, used or expired")
        try:
            return _decoder.decode(value)
        except msgspec.DecodeError:
            raise InvalidTokenError("the ticket is damaged") from None

    def _key(self, ticket: str) -> str:
        return self._redis.keys.ws_ticket(hashlib.sha256(ticket.encode()).hexdigest())
