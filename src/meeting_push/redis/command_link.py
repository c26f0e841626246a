"""一条裸连接上的请求与回答：按次序配对。"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from itertools import repeat
from typing import Any, Final

import hiredis

from ..errors import MeetingPushError, RedisCommandError, RedisUnavailableError
from .address import RedisAddress, host_and_port, open_link
from .link import Argument, Command, DemotedError, Link, pack, pack_one

#: 哪些错误的回答留在结果里各自的位置上，不连累别的。
Kept = tuple[type[MeetingPushError], ...]
_NONE: Final[Kept] = ()
_REFUSALS: Final[Kept] = (RedisCommandError,)
#: 全部：由调用者一个一个地看。
EVERY: Final[Kept] = (MeetingPushError,)


#: 不是错误的回答。
_PLAIN: Final = frozenset((int, bytes, list, type(None)))


class _Batch:
    """``send_many`` 的等待者：在队列里占 n 个位置，收齐才有结果。"""

    __slots__ = ("error", "future", "kept", "missing", "replies")

    def __init__(self, future: asyncio.Future[list[Any]], missing: int, kept: Kept) -> None:
        self.future = future
        self.kept = kept
        self.missing = missing
        self.replies: list[Any] = []
        self.error: MeetingPushError | None = None

    def take(self, reply: Any) -> None:
        if isinstance(reply, MeetingPushError) and not isinstance(reply, self.kept):
            self.error = self.error or reply
        self.replies.append(reply)
        self.missing -= 1
        if self.missing == 0 and not self.future.done():
            self._finish()

    def _finish(self) -> None:
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.replies)


class CommandLink(Link):
    """请求按次序写出，回答按次序配给等待者。

    等待者被取消时仍留在队列里占着位置：它的回答到了就丢掉，后面的不会错位。
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._pending: deque[asyncio.Future[Any] | _Batch] = deque()

    def expecting(self) -> bool:
        return bool(self._pending)

    def send(self, args: Sequence[Argument]) -> asyncio.Future[Any]:
        packed = pack(*args)
        future: asyncio.Future[Any] = self._loop.create_future()
        if not self._pending:
            self._silent = 0
        self._pending.append(future)
        self.write(packed)
        return future

    def send_many(
        self, commands: Sequence[Sequence[Argument]], *, tolerant: bool = False
    ) -> asyncio.Future[list[Any]]:
        return self.send_batch(commands, _REFUSALS if tolerant else _NONE)

    def send_batch(
        self, commands: Sequence[Sequence[Argument]], kept: Kept
    ) -> asyncio.Future[list[Any]]:
        future: asyncio.Future[list[Any]] = self._loop.create_future()
        if not commands:
            future.set_result([])
            return future
        packed = b"".join(map(pack_one, map(tuple, commands)))
        if not self._pending:
            self._silent = 0
        self._pending.extend(repeat(_Batch(future, len(commands), kept), len(commands)))
        self.write(packed)
        return future

    def data_received(self, data: bytes) -> None:
        self._silent = 0
        self._reader.feed(data)
        gets, pending = self._reader.gets, self._pending
        try:
            while (reply := gets()) is not False:
                waiter = pending.popleft()
                if isinstance(waiter, _Batch):
                    if waiter.missing > 1 and reply.__class__ in _PLAIN:  # 常态，不必再调用
                        waiter.replies.append(reply)
                        waiter.missing -= 1
                        continue
                    waiter.take(reply)
                elif not waiter.done():
                    if isinstance(reply, MeetingPushError):
                        waiter.set_exception(reply)
                    else:
                        waiter.set_result(reply)
                if isinstance(reply, DemotedError):
                    self.abort(reply.cause)
        except (hiredis.ProtocolError, IndexError):
            self.abort("protocol_error")

    def fail(self, error: MeetingPushError) -> None:
        pending, self._pending = self._pending, deque()
        for waiter in pending:
            future = waiter.future if isinstance(waiter, _Batch) else waiter
            if not future.done():
                future.set_exception(error)


async def converse(
    address: RedisAddress, commands: Sequence[Command], limit_s: float, *, tolerant: bool = True
) -> list[Any]:
    """一问一答就挂断。

    :raises MeetingPushError: 见 ``LeanConnection.execute_many``；时限一到是 ``timeout``
    """
    link: CommandLink | None = None
    try:
        async with asyncio.timeout(limit_s):
            link = await open_link(address, lambda: CommandLink(lambda _: None, limit_s), limit_s)
            return await link.send_many(commands, tolerant=tolerant)
    except TimeoutError:
        where = host_and_port(address.host, address.port)
        raise RedisUnavailableError(f"{where} does not answer", cause="timeout") from None
    finally:
        if link is not None:
            link.close()
