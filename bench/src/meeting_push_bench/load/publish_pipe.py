"""只会 PUBLISH 的 Redis 连接：预先打包，回答只数，每条不到 1 µs，发布者才不会先到顶。"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Self

from meeting_push.errors import MeetingPushError
from meeting_push.redis.dial import RedisAddress, dial, greeting
from meeting_push.redis.link import Link, pack

from ..failure import BenchError

_TIMEOUT_S = 10.0


class PublishPipe(Link):
    """``put`` 之后回答陆续到来；``answered`` 追上 ``put`` 的总数就是都执行了。"""

    def __init__(self, on_lost: Callable[[Link], None], timeout_s: float) -> None:
        super().__init__(on_lost, timeout_s)
        self._asked = 0
        self.answered = 0
        self.unheard = 0
        self.failed: MeetingPushError | None = None

    @classmethod
    async def open(cls, url: str, name: str) -> Self:
        """:raises BenchError: 连不上"""
        address = RedisAddress.parse(url)
        try:
            pipe = await dial(address, lambda: cls(_ignore, _TIMEOUT_S), _TIMEOUT_S)
        except MeetingPushError as error:
            raise BenchError(f"publishing failed: {error.message}") from None
        hello = greeting(address, name)
        pipe.put(b"".join(pack(*command) for command in hello), len(hello))
        await pipe.drained()
        pipe.answered = pipe._asked = pipe.unheard = 0
        return pipe

    def put(self, packed: bytes, commands: int) -> None:
        self._asked += commands
        self.write(packed)

    async def drained(self) -> None:
        """等到全部有了回答。

        :raises BenchError: 断线，或 Redis 拒绝了哪一条
        """
        while self.answered < self._asked and self.failed is None:  # noqa: ASYNC110 — 热路只数，不叫醒
            await asyncio.sleep(0.001)
        self.check()

    def check(self) -> None:
        """:raises BenchError: 断线，或 Redis 拒绝了哪一条"""
        if self.failed is not None:
            raise BenchError(f"publishing failed: {self.failed.message}")

    # ── Link ────────────────────────────────────────────────────────────────

    def expecting(self) -> bool:
        return self.answered < self._asked

    def data_received(self, data: bytes) -> None:
        self._silent = 0
        self._reader.feed(data)
        gets = self._reader.gets
        while (reply := gets()) is not False:
            self.answered += 1
            if isinstance(reply, MeetingPushError):
                self.failed = reply
            elif reply == 0:
                self.unheard += 1

    def fail(self, error: MeetingPushError) -> None:
        self.failed = self.failed or error


def _ignore(link: Link) -> None:
    """断线由 ``fail`` 记下。"""
