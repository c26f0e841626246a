"""账号：建立，以及用户名与密码的核对。

所有进程合计的次数：在 Redis 里数；Redis 不在就只数自己的。

滑动窗口里的次数，按键计；内存有上限。
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from typing import Final

from ..clock import Clock, now_ms
from ..errors import (
    AccountDisabledError,
    BadCredentialsError,
    InvalidInputError,
    RateLimitedError,
    RedisUnavailableError,
)
from ..limits.rate import rate_key
from ..logs import MANY, RepeatedWarning
from ..redis.redis_service import RedisService, courtesy
from ..storage.accounts import UserRepository, username_key
from ..storage.rows import User
from .passwords import Passwords

#: 任何文字的字母与数字，加 . _ @ + -；没有空白、控制符与零宽字符。
_USERNAME: Final = re.compile(r"[\w.@+-]{3,64}")
_MAX_TYPED: Final = 256  # 登录时输入的只看这么长：它进计数的键
_WINDOW_MS: Final = 300_000
_FAILURES_PER_NAME: Final = 5  # 同一用户名与地址
#: 同一地址（IPv6：/64）、任何名字；大局域网共用一个，所以宽。满了以后没有的名字不再核对，有的照旧：
#: 猜的人锁不住同一地址的别人。到了后一个数才一概不理（同一个密码挨个试别人的账号）。
_FAILURES_PER_ADDRESS: Final = 100
_WRONG_PASSWORDS_PER_ADDRESS: Final = 1_000


class Accounts:
    """失败次数由所有进程合计；没有 ``redis``，或它断着，就各数各的。"""

    def __init__(
        self,
        users: UserRepository,
        passwords: Passwords,
        clock: Clock = now_ms,
        redis: RedisService | None = None,
    ) -> None:
        self._users = users
        self._passwords = passwords
        self._clock = clock
        self._by_name = SharedWindow("login", _FAILURES_PER_NAME, _WINDOW_MS, redis, clock)
        self._created = RepeatedWarning("auth_user_created", lines=MANY, level="INFO")
        self._failed = RepeatedWarning("auth_login_failed", lines=MANY)
        self._by_address = SharedWindow(
            "login_address", _FAILURES_PER_ADDRESS, _WINDOW_MS, redis, clock
        )
        self._wrong_by_address = SharedWindow(
            "login_wrong", _WRONG_PASSWORDS_PER_ADDRESS, _WINDOW_MS, redis, clock
        )

    async def create(self, username: str, password: str, role: str, address: str = "") -> User:
        """:raises InvalidInputError: 用户名或密码不合规
        :raises UsernameTakenError: 同名（不分大小写、全半角）
        """
        name = unicodedata.normalize("NFKC", username)
        if not _USERNAME.fullmatch(name):
            raise InvalidInputError(
                "the username must have 3 to 64 letters, digits or any of . _ @ + -"
            )
        password_hash = await self.hash(password, address)
        user = await self._users.create(name, password_hash, role, self._clock())
        self._created.say(user_id=user.id, user_role=role)
        return user

    async def hash(self, password: str, address: str = "") -> str:
        """:raises InvalidInputError: 密码不合规，``WeakPasswordError`` 也是"""
        return await self._passwords.hash(password, rate_key(address))

    async def authenticate(self, username: str, password: str, address: str) -> User:
        """:raises BadCredentialsError: 用户名或密码不对；不加区分
        :raises AccountDisabledError: 密码对，账号停用着
        :raises RateLimitedError: 5 分钟内失败太多
        """
        username = username[:_MAX_TYPED]
        place = rate_key(address)
        attempt = f"{username_key(username)}|{place}"
        try:
            await self._wrong_by_address.check(place)
            await self._by_name.reserve(attempt)  # 先记后验：并发的猜测也逃不过上限
            user = await self._verified(username, password, place, address)
        except RateLimitedError:
            self._log_failure(address, "rate_limited")
            raise
        await self._by_name.forget(attempt)
        if user.disabled_at is not None:
            self._log_failure(address, "disabled", user)
            raise AccountDisabledError("the account is disabled")
        return user

    async def _verified(self, username: str, password: str, place: str, address: str) -> User:
        """地址满了以后，密码不对与没有这个人都是 429，用时相近：看不出是哪一样。"""
        suspected = await self._by_address.is_full(place)
        user = await self._find(username)
        if user is None and suspected:
            await self._passwords.pretend()
            right = False
        else:
            stored = user.password_hash if user else None
            right = await self._passwords.verify(stored, password, place)
        if user is not None and right:
            return user
        if suspected:
            if user is not None:
                await self._wrong_by_address.count(place)
            await self._by_address.check(place)
        await self._by_address.count(place)
        self._log_failure(address, "unknown_user" if user is None else "wrong_password", user)
        raise BadCredentialsError("wrong username or password")

    def _log_failure(self, address: str, reason: str, user: User | None = None) -> None:
        """输入的名字不进日志，它可能是误填的密码；只写认得的人。"""
        username = None if user is None else user.username
        self._failed.say(address=address, reason=reason, username=username)

    async def _find(self, username: str) -> User | None:
        if not _USERNAME.fullmatch(unicodedata.normalize("NFKC", username)):
            return None
        return await self._users.by_name(username)


class SharedWindow:
    """每个键在 ``window_ms`` 之内最多 ``limit`` 次。

    本进程的是滑动窗口；Redis 里的从第一次算起，到期一起忘掉（几条命令，不必脚本）。
    ``redis`` 为 None：只数本进程。
    """

    def __init__(
        self,
        name: str,
        limit: int,
        window_ms: int,
        redis: RedisService | None = None,
        clock: Clock = now_ms,
    ) -> None:
        self._name = name
        self._limit = limit
        self._window_ms = window_ms
        self._redis = redis
        self._local = AttemptWindow(limit, window_ms, clock=clock)

    async def check(self, key: str) -> None:
        """:raises RateLimitedError: 已满；``retry_after_s`` 秒后再来"""
        self._local.check(key)
        self._refuse_from(*await self._ask(key, RedisService.counted))

    async def is_full(self, key: str) -> bool:
        try:
            await self.check(key)
        except RateLimitedError:
            return True
        return False

    async def reserve(self, key: str) -> None:
        """先记一次再说；满了则拒绝。并发的调用至多有 ``limit`` 个通过。

        :raises RateLimitedError: 已满
        """
        self._local.check(key)
        count, ttl_ms = await self._count(key)
        self._refuse_from(count - 1, ttl_ms)

    async def count(self, key: str) -> None:
        await self._count(key)

    async def forget(self, key: str) -> None:
        self._local.forget(key)
        await self._ask(key, RedisService.restart_count)

    async def _count(self, key: str) -> tuple[int, int]:
        self._local.count(key)
        return await self._ask(key, lambda redis, name: redis.count(name, self._window_ms))

    def _refuse_from(self, count: int, ttl_ms: int) -> None:
        if count >= self._limit:
            raise RateLimitedError("too many attempts", retry_after_s=max(1, -(-ttl_ms // 1000)))

    async def _ask(
        self, key: str, question: Callable[[RedisService, str], Awaitable[tuple[int, int]]]
    ) -> tuple[int, int]:
        """问这个键的次数；Redis 不在则当作没有数过。"""
        if self._redis is None:
            return 0, 0
        # 键里有用户名与地址：只留散列
        digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
        name = self._redis.keys.attempts(self._name, digest)
        try:
            return await courtesy(question(self._redis, name))
        except RedisUnavailableError:
            return 0, 0


class AttemptWindow:
    """任何 ``window_ms`` 之内，每个键最多 ``limit`` 次。

    只在本进程内计数。键多于 ``max_keys`` 时忘掉最久没有动静的：宁可少限，也不让攻击者
    用不断变化的键耗尽内存。
    """

    def __init__(
        self, limit: int, window_ms: int, *, max_keys: int = 10_000, clock: Clock = now_ms
    ) -> None:
        self._limit = limit
        self._window_ms = window_ms
        self._max_keys = max_keys
        self._clock = clock
        self._times: OrderedDict[str, deque[int]] = OrderedDict()

    def check(self, key: str) -> None:
        """:raises RateLimitedError: 已满；``retry_after_s`` 秒后最早的一次离开窗口"""
        times = self._times.get(key)
        if times is None:
            return
        now = self._clock()
        while times and times[0] <= now - self._window_ms:
            times.popleft()
        if len(times) >= self._limit:
            wait_ms = times[0] + self._window_ms - now
            raise RateLimitedError("too many attempts", retry_after_s=-(-wait_ms // 1000))

    def count(self, key: str) -> None:
        times = self._times.setdefault(key, deque(maxlen=self._limit))
        times.append(self._clock())
        self._times.move_to_end(key)
        if len(self._times) > self._max_keys:
            self._times.popitem(last=False)

    def forget(self, key: str) -> None:
        self._times.pop(key, None)
