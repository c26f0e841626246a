"""有期限地等待外部进程：测试里唯一允许的轮询。

期限只算本进程醒着的：被暂停了一分钟（笔记本合上，别人停住它去量别的），或忙得问一次要几秒，也还有
十几次可问。
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar, overload

T = TypeVar("T")

#: 隔多久再问：已等的二十分之一，快的不耽误，慢的不占着机器。
_FIRST_S: Final = 0.01
_LONGEST_S: Final = 0.05
#: 问一次、歇一次，至多算这么久：再多的不是等，是没有轮到。
_ROUND_COUNTS_S: Final = 0.4


@overload
async def eventually(predicate: Callable[[], Awaitable[T]], timeout: float = 5.0) -> T: ...
@overload
async def eventually(predicate: Callable[[], T], timeout: float = 5.0) -> T: ...
async def eventually(predicate: Callable[[], object], timeout: float = 5.0) -> object:
    """一再地问，直到 ``predicate`` 的（可等待的）结果为真，返回该结果。

    :raises AssertionError: ``timeout`` 秒后仍不为真；写明最后一次的结果
    """
    waited = _Waited(timeout)
    while True:
        result = predicate()
        if inspect.isawaitable(result):
            result = await result
        if result:
            return result
        await asyncio.sleep(waited.pause_s(result))


def wait_until(predicate: Callable[[], T], timeout: float = 5.0) -> T:
    """``eventually`` 的同步版，供启动服务的夹具使用；它阻塞事件循环。"""
    waited = _Waited(timeout)
    while not (result := predicate()):
        time.sleep(waited.pause_s(result))
    return result


class _Waited:
    """等了多久，以及还等不等。"""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._counted_s = 0.0
        self._since = time.monotonic()

    def pause_s(self, last: object) -> float:
        """刚问过，得到 ``last``：再问之前歇多久。

        :raises AssertionError: 不等了
        """
        now = time.monotonic()
        self._counted_s += min(now - self._since, _ROUND_COUNTS_S)
        self._since = now
        if self._counted_s >= self._timeout:
            raise AssertionError(f"not true within {self._timeout:g} s; last result: {last!r}")
        return min(max(_FIRST_S, self._counted_s / 20), _LONGEST_S)
