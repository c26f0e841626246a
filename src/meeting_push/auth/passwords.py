"""密码散列：argon2id，在自己的线程里算；注册与登录各排各的队，谁的洪水只淹自己（A8）。

太容易猜的密码：8 个字符以下，全是数字，或在最常见的一万个之中。

名单 ``common_passwords.txt.gz`` 只留下前两条没有说的（一行一个，NFKC、casefold）：zxcvbn 4.5（MIT）
的口令频率表前一万与 Django 5.2（BSD-3-Clause）的 ``common-passwords`` 前一万的并集。
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import os
import threading
import time
import unicodedata
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.resources import files
from typing import Final, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError

from ..errors import InvalidInputError, RateLimitedError, WeakPasswordError

MAX_PASSWORD_BYTES: Final = 1024
#: 登录两个同时也只占 38 MiB，注册一个；都让着别人：猜密码的占不住事件循环要的核（A14），机器不满时
#: 照样快。
_LOGIN_THREADS: Final = 2
_LOGIN_NICENESS: Final = 5
_REGISTER_NICENESS: Final = 10
#: 一个地址至多占一条队的这么一份：别的地址总还排得进。
_SHARE: Final = 4

T = TypeVar("T")


class _Lane:
    """一条队与它的线程。

    在算与在等的合计至多 ``max_waiting`` 个，再多就拒绝：洪水里等上几秒没有意义。在等的按地址轮流。
    """

    def __init__(self, name: str, threads: int, max_waiting: int, niceness: int = 0) -> None:
        self._threads = ThreadPoolExecutor(threads, name, initializer=lambda: _be_nice(niceness))
        self._max_waiting = max_waiting
        self._per_key = max(1, max_waiting // _SHARE)
        self._waiting: Counter[str] = Counter()
        self._idle = threads
        self._line: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    async def run(self, work: Callable[[], T], key: str) -> T:
        """:raises RateLimitedError: 排队的太多，或 ``key``（地址）的太多"""
        full = self._waiting.total() >= self._max_waiting
        if full or (key and self._waiting[key] >= self._per_key):
            raise RateLimitedError("too many password checks are waiting")
        self._waiting[key] += 1
        try:
            await self._turn(key)
            try:
                return await asyncio.get_running_loop().run_in_executor(self._threads, work)
            finally:
                self._next()
        finally:
            self._waiting[key] -= 1
            if not self._waiting[key]:
                del self._waiting[key]

    async def _turn(self, key: str) -> None:
        if self._idle:
            self._idle -= 1
            return
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.setdefault(key, deque()).append(mine)
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():
                self._next()  # 轮到了，可是他走了
            raise

    def _next(self) -> None:
        while self._line:
            key, queue = next(iter(self._line.items()))
            mine = queue.popleft()
            if queue:
                self._line.move_to_end(key)
            else:
                del self._line[key]
            if not mine.done():
                mine.set_result(None)
                return
        self._idle += 1


class Passwords:
    """默认参数是 OWASP 的 argon2id 建议（19 MiB，t=2，p=1）：约 20 ms。"""

    def __init__(
        self, time_cost: int = 2, memory_cost_kib: int = 19 * 1024, *, max_waiting: int = 100
    ) -> None:
        self._hasher = PasswordHasher(
            time_cost=time_cost, memory_cost=memory_cost_kib, parallelism=1
        )
        # 查无此人时也照样算一遍，免得用时泄露账号是否存在。
        self._nobody = self._hasher.hash("nobody")
        self._last_s = 0.0
        self._logins = _Lane("login", _LOGIN_THREADS, max_waiting, _LOGIN_NICENESS)
        self._registrations = _Lane("register", 1, max_waiting, _REGISTER_NICENESS)

    async def hash(self, password: str, key: str = "") -> str:
        """``key``：谁在排队（地址），空的不分。

        :raises WeakPasswordError: 太容易猜
        :raises InvalidInputError: 不是至多 1024 字节的 UTF-8 文本
        :raises RateLimitedError: 排队的太多
        """
        if not 0 <= _utf8_size(password) <= MAX_PASSWORD_BYTES:
            raise InvalidInputError(f"the password: at most {MAX_PASSWORD_BYTES} bytes of text")
        require_strong(password)
        return await self._registrations.run(lambda: self._hasher.hash(password), key)

    async def verify(self, password_hash: str | None, password: str, key: str = "") -> bool:
        """``password_hash`` 为 None（查无此人）时用时相同，结果为假。

        :raises RateLimitedError: 排队的太多
        """
        if not 0 <= _utf8_size(password) <= MAX_PASSWORD_BYTES:
            return False
        matches = await self._logins.run(
            lambda: self._matches(password_hash or self._nobody, password), key
        )
        return matches and password_hash is not None

    async def pretend(self) -> None:
        """与上一次核对用时相同，而不费 CPU。"""
        await asyncio.sleep(self._last_s)

    def _matches(self, password_hash: str, password: str) -> bool:
        started = time.perf_counter()
        try:
            return self._hasher.verify(password_hash, password)
        except VerifyMismatchError:
            return False
        finally:
            self._last_s = time.perf_counter() - started


def _be_nice(niceness: int) -> None:
    """只让这个线程（Linux 上它有自己的优先级）；别的系统上算了。"""
    if niceness and os.name == "posix":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)


def _utf8_size(password: str) -> int:
    """孤立代理项不能编码：-1。"""
    try:
        return len(password.encode())
    except UnicodeEncodeError:
        return -1


MIN_CHARS: Final = 8


def require_strong(password: str) -> None:
    """:raises WeakPasswordError: 见模块说明"""
    if len(password) < MIN_CHARS:
        raise WeakPasswordError(f"the password must have at least {MIN_CHARS} characters")
    if password.isdecimal():
        raise WeakPasswordError("the password must not consist of digits only")
    if unicodedata.normalize("NFKC", password).casefold() in _common():
        raise WeakPasswordError("the password is one of the 10,000 commonest")


@cache
def _common() -> frozenset[str]:
    """第一次注册时才读，几毫秒。"""
    packed = (files("meeting_push") / "auth" / "common_passwords.txt.gz").read_bytes()
    return frozenset(gzip.decompress(packed).decode().split("\n"))
