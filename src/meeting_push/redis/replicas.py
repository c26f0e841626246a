"""写了信箱，等几个副本收到（``WAIT``）：切换时就不必从 SQL 再来（决定 0016）。"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final, NamedTuple

from ..logs import RepeatedWarning
from .lean import LeanConnection
from .link import Argument

_short: Final = RepeatedWarning("redis_replicas_short")


class Wait(NamedTuple):
    """等几个副本，至多多久；0 个 = 不等。"""

    replicas: int = 0
    within_ms: int = 0


class Replicas:
    """``lean``：写信箱专用的：等着的时候，这条连接上后面的命令也等。"""

    def __init__(self, lean: LeanConnection, wait: Wait) -> None:
        self.lean = lean
        self._wait = wait
        #: 到时还不够的次数。
        self.short = 0

    async def wait(self, written: Iterable[Argument]) -> None:
        """先前写在管着这些键的主上的。到时不够也算写下：SQL 是记录，缺了从那里再来。

        :raises RedisUnavailableError: 等着的时候断了：不知道写下没有，整批重来无害
        """
        masters = {self.lean.at(key) for key in written}
        asked = (one.execute("WAIT", *self._wait) for one in masters)
        got = min(await asyncio.gather(*asked), default=self._wait.replicas)
        if got < self._wait.replicas:
            self.short += 1
            _short.say(replicas=got, wanted=self._wait.replicas)
