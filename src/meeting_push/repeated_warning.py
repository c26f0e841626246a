"""反复发生的同一件事只隔一阵说一次：依赖不在时，每秒几十行一样的警告会把别的都淹掉。"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from loguru import logger

#: 至多这么久一条：一处依赖不在，各处加起来每分钟仍只有十来行。
EVERY_S: Final = 60.0


class RepeatedWarning:
    """一个日志事件；谁反复遇到它，谁留着一个。

    第一次立即记下；还在发生就每 ``every_s`` 至多一条，``repeated`` 是其间没有记下的次数。停了
    ``every_s`` 之后再来的，又是第一次。
    """

    def __init__(
        self,
        event: str,
        *,
        every_s: float = EVERY_S,
        level: str = "WARNING",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._event = event
        self._every_s = every_s
        self._level = level
        self._clock = clock
        self._said_at = self._seen_at = float("-inf")
        self._unsaid = 0

    def say(self, **fields: object) -> None:
        now = self._clock()
        if now - self._seen_at >= self._every_s:
            self._unsaid = 0
        self._seen_at = now
        if now - self._said_at < self._every_s:
            self._unsaid += 1
            return
        log = (
            logger.bind(**fields, repeated=self._unsaid) if self._unsaid else logger.bind(**fields)
        )
        self._said_at, self._unsaid = now, 0
        log.log(self._level, self._event)
