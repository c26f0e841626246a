"""依赖暂时不可用时的耐心：开着连接，退避重试。"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from ..errors import UnavailableError

#: 重试间隔：满抖动，从第一次起（LESSONS 1）。
FIRST_BACKOFF_S: Final = 0.1
MAX_BACKOFF_S: Final = 2.0

Result = TypeVar("Result")


async def patiently(attempt: Callable[[], Awaitable[Result]]) -> Result:
    """依赖不可用就退避重试；上限由调用者的 timeout 或连接的寿命给出。"""
    backoff = FIRST_BACKOFF_S
    while True:
        try:
            return await attempt()
        except UnavailableError:
            await asyncio.sleep(random.uniform(0, backoff))  # noqa: S311 — 抖动不需要密码学随机
            backoff = min(backoff * 2, MAX_BACKOFF_S)
