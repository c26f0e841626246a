"""一批里坏了一项，别的照做：一再对半分开，直到只剩坏的那一项，把它搁置。

坏的一项是数据的错（别人写坏的键、存不下的值、读不懂的行），重来也没有用；依赖暂时不在不是它的错，
整批留着，等一等再来（``Backoff``）。
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final, TypeVar

from .errors import MeetingPushError, UnavailableError
from .repeated_warning import RepeatedWarning

FIRST_BACKOFF_S: Final = 0.1
MAX_BACKOFF_S: Final = 2.0
#: 一行日志里至多列出这么多个搁置的。
LOGGED_ITEMS: Final = 20
#: 一项也没有成，连着搁置了这么多：坏的不是这些项，是这条路。
BROKEN_AFTER: Final = 100

Item = TypeVar("Item")


class Backoff:
    """依赖不在时等多久：封顶，满抖动（LESSONS 1）；成了一次就从头计。"""

    def __init__(self, first_s: float = FIRST_BACKOFF_S, most_s: float = MAX_BACKOFF_S) -> None:
        self._first_s = self._next_s = first_s
        self._most_s = most_s

    async def wait(self) -> None:
        pause_s, self._next_s = self._next_s, min(self._next_s * 2, self._most_s)
        await asyncio.sleep(random.uniform(0, pause_s))  # noqa: S311 — 抖动不需要密码学随机

    def reset(self) -> None:
        self._next_s = self._first_s


def is_temporary(error: BaseException) -> bool:
    """等一等可能就好：依赖不在、满了、太频繁。"""
    return isinstance(error, MeetingPushError) and error.temporary


class Aside:
    """一个循环搁置坏项的地方：计数，记下是哪几项、为什么。"""

    def __init__(self, name: str) -> None:
        self.name = name
        #: 搁置了几项，只增。
        self.count = 0
        self._in_a_row = 0
        self._said = RepeatedWarning("items_set_aside")

    async def isolate(
        self,
        items: Sequence[Item],
        work: Callable[[Sequence[Item]], Awaitable[object]],
        name_of: Callable[[Item], object] = str,
    ) -> list[Item]:
        """对 ``items`` 做 ``work``，返回搁置的几项（已计数、已记下）。

        ``work`` 对同一项做两遍须无害。一项坏了，代价是多做 2·log₂(n) 次。

        :raises MeetingPushError: 暂时的；不知道做了哪些，整批再来
        """
        spoiled: list[tuple[Item, Exception]] = []
        await self._halve(items, work, spoiled)
        if spoiled:
            self._in_a_row += len(spoiled)
            self.note([name_of(item) for item, _ in spoiled], spoiled[0][1])
        return [item for item, _ in spoiled]

    def note(self, names: Sequence[object], error: Exception | str) -> None:
        """搁置了这几项；别处（Lua、管道）已经分开的，直接来这里记。"""
        self.count += len(names)
        self._said.say(
            loop=self.name,
            items=[str(name)[:200] for name in names[:LOGGED_ITEMS]],
            count=len(names),
            error=error if isinstance(error, str) else f"{type(error).__name__}: {error}"[:500],
        )

    async def check(self) -> None:
        """:raises UnavailableError: 一直在搁置，没有一项做成"""
        if self._in_a_row >= BROKEN_AFTER:
            raise UnavailableError(f"{self.name}: everything is set aside")

    async def _halve(
        self,
        items: Sequence[Item],
        work: Callable[[Sequence[Item]], Awaitable[object]],
        spoiled: list[tuple[Item, Exception]],
    ) -> None:
        if not items:
            return
        try:
            await work(items)
        except Exception as error:
            if is_temporary(error):
                raise
            if len(items) == 1:
                spoiled.append((items[0], error))
                return
            middle = len(items) // 2
            await self._halve(items[:middle], work, spoiled)
            await self._halve(items[middle:], work, spoiled)
        else:
            self._in_a_row = 0


class Asides:
    """一个进程里的全部 ``Aside``，给观察它们的人。"""

    def __init__(self) -> None:
        self._all: dict[str, Aside] = {}

    def of(self, name: str) -> Aside:
        return self._all.setdefault(name, Aside(name))

    def __iter__(self) -> Iterator[Aside]:
        return iter(list(self._all.values()))

    async def check(self) -> None:
        """:raises UnavailableError: 见 ``Aside.check``"""
        for one in self:
            await one.check()


Result = TypeVar("Result")


async def patiently(attempt: Callable[[], Awaitable[Result]]) -> Result:
    """依赖不可用就退避重试；上限由调用者的 timeout 或连接的寿命给出。"""
    backoff = Backoff()
    while True:
        try:
            return await attempt()
        except UnavailableError:
            await backoff.wait()
