"""有期限地等待外部进程：测试里唯一允许的轮询。"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar, overload

T = TypeVar("T")

_STEP_S: Final = 0.01


@overload
async def eventually(predicate: Callable[[], Awaitable[T]], timeout: float = 5.0) -> T: ...
@overload
async def eventually(predicate: Callable[[], T], timeout: float = 5.0) -> T: ...
async def eventually(predicate: Callable[[], object], timeout: float = 5.0) -> object:
    """每 10 ms 问一次，直到 ``predicate`` 的（可等待的）结果为真，返回该结果。

    :raises AssertionError: ``timeout`` 秒后仍不为真；写明最后一次的结果
    """
    deadline = time.monotonic() + timeout
    while True:
        result = predicate()
        if inspect.isawaitable(result):
            result = await result
        if result:
            return result
        _check(deadline, timeout, result)
        await asyncio.sleep(_STEP_S)


def wait_until(predicate: Callable[[], T], timeout: float = 5.0) -> T:
    """``eventually`` 的同步版，供启动服务的夹具使用；它阻塞事件循环。"""
    deadline = time.monotonic() + timeout
    while not (result := predicate()):
        _check(deadline, timeout, result)
        time.sleep(_STEP_S)
    return result


def _check(deadline: float, timeout: float, last: object) -> None:
    if time.monotonic() >= deadline:
        raise AssertionError(f"not true within {timeout:g} s; last result: {last!r}")
