"""有期限地等待外部进程：测试里唯一允许的轮询。"""

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


@overload
async def eventually(predicate: Callable[[], Awaitable[T]], timeout: float = 5.0) -> T: ...
@overload
async def eventually(predicate: Callable[[], T], timeout: float = 5.0) -> T: ...
async def eventually(predicate: Callable[[], object], timeout: float = 5.0) -> object:
    """一再地问，直到 ``predicate`` 的（可等待的）结果为真，返回该结果。

    :raises AssertionError: ``timeout`` 秒后仍不为真；写明最后一次的结果
    """
    start = time.monotonic()
    while True:
        result = predicate()
        if inspect.isawaitable(result):
            result = await result
        if result:
            return result
        await asyncio.sleep(_pause_s(start, timeout, result))


def wait_until(predicate: Callable[[], T], timeout: float = 5.0) -> T:
    """``eventually`` 的同步版，供启动服务的夹具使用；它阻塞事件循环。"""
    start = time.monotonic()
    while not (result := predicate()):
        time.sleep(_pause_s(start, timeout, result))
    return result


def _pause_s(start: float, timeout: float, last: object) -> float:
    waited = time.monotonic() - start
    if waited >= timeout:
        raise AssertionError(f"not true within {timeout:g} s; last result: {last!r}")
    return min(max(_FIRST_S, waited / 20), _LONGEST_S)
