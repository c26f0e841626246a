"""滑动窗口里的次数，按键计；内存有上限。"""

from __future__ import annotations

from collections import OrderedDict, deque

from ..clock import Clock, now_ms
from ..errors import RateLimitedError


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
