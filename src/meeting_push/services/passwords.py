"""密码散列：argon2id，在线程里算，同时进行的有上限。"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError

from ..errors import InvalidInputError, RateLimitedError

MIN_PASSWORD_BYTES: Final = 8
MAX_PASSWORD_BYTES: Final = 1024
_CONCURRENT: Final = 2

T = TypeVar("T")


class Passwords:
    """默认参数是 OWASP 的 argon2id 建议（19 MiB，t=2，p=1）：约 20 ms，两个同时也只占 38 MiB。

    在算与在等的合计至多 ``max_waiting`` 个，再多就拒绝：洪水里等上几秒的登录没有意义。
    """

    def __init__(
        self, time_cost: int = 2, memory_cost_kib: int = 19 * 1024, *, max_waiting: int = 100
    ) -> None:
        self._hasher = PasswordHasher(
            time_cost=time_cost, memory_cost=memory_cost_kib, parallelism=1
        )
        # 查无此人时也照样算一遍，免得用时泄露账号是否存在。
        self._nobody = self._hasher.hash("nobody")
        self._slots = asyncio.Semaphore(_CONCURRENT)
        self._waiting = 0
        self._max_waiting = max_waiting

    async def hash(self, password: str) -> str:
        """:raises InvalidInputError: 不是 8～1024 字节的 UTF-8 文本
        :raises RateLimitedError: 排队的太多
        """
        size = _utf8_size(password)
        if not MIN_PASSWORD_BYTES <= size <= MAX_PASSWORD_BYTES:
            raise InvalidInputError(
                f"the password must have {MIN_PASSWORD_BYTES} to {MAX_PASSWORD_BYTES} bytes"
            )
        return await self._in_thread(lambda: self._hasher.hash(password))

    async def verify(self, password_hash: str | None, password: str) -> bool:
        """``password_hash`` 为 None（查无此人）时用时相同，结果为假。

        :raises RateLimitedError: 排队的太多
        """
        if not 0 <= _utf8_size(password) <= MAX_PASSWORD_BYTES:
            return False
        matches = await self._in_thread(
            lambda: self._matches(password_hash or self._nobody, password)
        )
        return matches and password_hash is not None

    def _matches(self, password_hash: str, password: str) -> bool:
        try:
            return self._hasher.verify(password_hash, password)
        except VerifyMismatchError:
            return False

    async def _in_thread(self, work: Callable[[], T]) -> T:
        if self._waiting >= self._max_waiting:
            raise RateLimitedError("too many password checks are waiting")
        self._waiting += 1
        try:
            async with self._slots:
                return await asyncio.to_thread(work)
        finally:
            self._waiting -= 1


def _utf8_size(password: str) -> int:
    """孤立代理项不能编码：-1。"""
    try:
        return len(password.encode())
    except UnicodeEncodeError:
        return -1
