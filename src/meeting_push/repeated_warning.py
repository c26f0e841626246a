"""反复发生的同一件事只隔一阵说几次：依赖不在时、被人攻击时，每秒几百行会把别的都淹掉。

别人制造得出的每一种事件都经这里说（内嵌时也是）；没有说的有数，窗口到头时说出来。我们自己的出口
（``logs.py``）对每一种事件还有同样的节制，谁也不能用日志灌满磁盘。
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from loguru import logger

from .plain_text import plain, plain_error

#: 一个窗口：一处依赖不在，各处加起来每分钟仍只有十来行。
EVERY_S: Final = 60.0
#: 每一行都有不同的内容（谁、从哪里）的事件，一个窗口里说这么多行。
MANY: Final = 20
#: 一个字段至多这么长。
MAX_FIELD_CHARS: Final = 512


class Turns:
    """一个窗口 ``every_s`` 里 ``lines`` 次；没轮到的有几次，到窗口的末尾告诉 ``sum_up``。

    线程里没有事件循环，就等下一次轮到时由 ``unsaid`` 得知。
    """

    def __init__(
        self,
        every_s: float,
        lines: int,
        sum_up: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._every_s = every_s
        self._lines = lines
        self._sum_up = sum_up
        self._clock = clock
        self._since = self._seen_at = float("-inf")
        self._said = self._unsaid = 0
        self._timer: asyncio.TimerHandle | None = None

    def take(self) -> bool:
        """这一次轮不轮得到。"""
        now = self._clock()
        if now - self._seen_at >= self._every_s:
            self._unsaid = 0  # 停了一阵：又是第一次
        self._seen_at = now
        if now - self._since >= self._every_s:
            self._since, self._said = now, 0
        if self._said < self._lines:
            self._said += 1
            return True
        self._unsaid += 1
        self._wait_for_end(self._since + self._every_s - now)
        return False

    def unsaid(self) -> int:
        """上次问过之后没轮到的次数。"""
        count, self._unsaid = self._unsaid, 0
        return count

    def _wait_for_end(self, delay_s: float) -> None:
        if self._timer is None:
            with contextlib.suppress(RuntimeError):
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(delay_s, self._end)

    def _end(self) -> None:
        self._timer = None
        if self._unsaid:
            self._since, self._said = self._clock(), 1
            self._sum_up()


class RepeatedWarning:
    """一个日志事件；谁反复遇到它，谁留着一个。

    头 ``lines`` 次立即记下；此后直到 ``every_s`` 满了才再记。其间没有记下的次数是下一行的
    ``repeated``；没有下一次，就由窗口的末尾补一行。

    ``context``：每一行都有的字段，补的那一行也有。字段在这里就去掉控制符：内嵌时写日志的是应用自己的格式。
    """

    def __init__(
        self,
        event: str,
        *,
        every_s: float = EVERY_S,
        lines: int = 1,
        level: str = "WARNING",
        context: Mapping[str, Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._event = event
        self._level = level
        self._context = dict(context or {})
        self._turns = Turns(every_s, lines, lambda: self._write(None, {}), clock)

    def say(self, exception: BaseException | None = None, **fields: Any) -> None:
        """``exception`` 连同回溯；只给我们自己的错，客户端造成的不该有回溯。"""
        if self._turns.take():
            self._write(exception, fields)

    def _write(self, exception: BaseException | None, fields: dict[str, Any]) -> None:
        given = {**self._context, **fields}
        said = {name: _field(value) for name, value in given.items() if value is not None}
        if repeated := self._turns.unsaid():
            said["repeated"] = repeated
        log = logger.bind(**said)
        if exception is not None:
            log = log.opt(exception=plain_error(exception))
        log.log(self._level, self._event)


def _field(value: Any) -> Any:
    return plain(value[:MAX_FIELD_CHARS]) if isinstance(value, str) else value
