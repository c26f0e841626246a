"""握手的速率：按地址、按用户，以及按地址的认证失败；只在本节点内数，内存有上限。

地址的额度只挡没有证明自己是谁的：一个地址后面可能是整个公司，其中一个人灌握手，别人带着有效的令牌
照样进得来（他们各有自己的额度）。
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Final

from ..clock import now_ms
from ..errors import ForbiddenError, InvalidTokenError, MeetingPushError, RateLimitedError
from ..limits.forwarded import rate_key
from ..limits.rate import KeyedBuckets
from ..repeated_warning import MANY, RepeatedWarning
from ..settings import Settings

#: 同一个地址被限速，十秒至多记一行：日志不能成为放大器。
_LOGS_PER_S: Final = 0.1
#: 过期与吊销的令牌是我们签过的，不是猜的：睡醒的标签页不该连累同一个地址的别人。
_GUESSES: Final = (InvalidTokenError, ForbiddenError)


class HastyUserError(RateLimitedError):
    """令牌是真的，只是这个人连得太快：算在他头上，不算在他的地址头上。"""

    def __init__(self, user_id: int) -> None:
        super().__init__("too many connections in a short time")
        self.user_id = user_id


class HandshakeLimits:
    """由 ``Authenticator`` 使用。"""

    def __init__(self, settings: Settings, clock: Callable[[], int] = now_ms) -> None:
        self._clock = clock
        self._addresses = KeyedBuckets(
            settings.handshakes_per_address_per_s, settings.handshakes_per_address_burst
        )
        self._users = KeyedBuckets(
            settings.handshakes_per_user_per_s, settings.handshakes_per_user_burst
        )
        self._failures = KeyedBuckets(
            settings.auth_failures_per_address_per_s, settings.auth_failures_per_address_burst
        )
        self._log_turns = KeyedBuckets(_LOGS_PER_S, 1)
        self._limited = RepeatedWarning("rate_limited", lines=MANY)

    def suspects(self, address: str) -> bool:
        """这个地址的陌生人此刻已超出额度：他们不许排队占住门；带着有效令牌的也就不必排。"""
        now, key = self._clock(), rate_key(address)
        return self._addresses.empty(key, now) or self._failures.empty(key, now)

    def check_stranger(self, address: str) -> None:
        """认证没有通过之后问。

        :raises RateLimitedError: 这个地址的陌生人来得太快，或失败得太多
        """
        now, key = self._clock(), rate_key(address)
        limit = None
        if not self._addresses.take(key, now):
            limit = "handshakes_by_address"
        elif self._failures.empty(key, now):
            limit = "auth_failures_by_address"
        if limit is not None:
            self._log(limit, address, key, now)
            raise RateLimitedError("too many connections in a short time")

    def check_user(self, user_id: int, address: str) -> None:
        """验证令牌之后：没有令牌的人用不完别人的额度。

        :raises HastyUserError: 这个用户连得太快
        """
        now = self._clock()
        if not self._users.take(user_id, now):
            self._log("handshakes_by_user", address, user_id, now)
            raise HastyUserError(user_id)

    def failed(self, address: str, error: MeetingPushError) -> None:
        """认证没有通过。"""
        if isinstance(error, _GUESSES):
            self._failures.take(rate_key(address), self._clock())

    def _log(self, limit: str, address: str, key: Hashable, now: int) -> None:
        if self._log_turns.take((limit, key), now):
            self._limited.say(limit=limit, key=key, ip_address=address)
