"""一页一页走过一张大表：一页多大由数据库的快慢定，所以再大的表、再慢的库也走得完。"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from ..errors import DatabaseUnavailableError

FIRST_ROWS: Final = 500
MOST_ROWS: Final = 20_000
#: 一页快过它就加倍，慢过 ``SLOW_S`` 就减半：远小于语句的时限，也不久占数据库。
QUICK_S: Final = 0.1
SLOW_S: Final = 0.5

Result = TypeVar("Result")


class PageWalk:
    """``rows`` 是下一页的大小；走到哪里由调用者记着。"""

    def __init__(self) -> None:
        self.rows = FIRST_ROWS

    async def page(self, work: Callable[[int], Awaitable[Result]]) -> Result:
        """做一页。

        :raises DatabaseUnavailableError: 多半是超过了时限：同一页下次只做四分之一
        """
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            result = await work(self.rows)
        except DatabaseUnavailableError:
            self.rows = max(1, self.rows // 4)
            raise
        self._adapt(loop.time() - started)
        return result

    def _adapt(self, took_s: float) -> None:
        if took_s < QUICK_S:
            self.rows = min(self.rows * 2, MOST_ROWS)
        elif took_s > SLOW_S:
            self.rows = max(1, self.rows // 2)
