"""订阅连接的一生（RESP2）：频道消息直接交给回调，其余回答按次序配对。"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

import hiredis
from loguru import logger

from ...contracts import ChannelHandler
from ...errors import MeetingPushError
from .link import Argument, Link, pack

SUBSCRIBE: Final = b"SUBSCRIBE"
UNSUBSCRIBE: Final = b"UNSUBSCRIBE"
_MESSAGE: Final = b"message"

#: 订阅确认的等待者；None 表示没人等，只占位置。
Waiter = asyncio.Future[None] | None


class Feed(Link):
    """全产品最热的循环在 ``data_received`` 里。

    除 ``message`` 外的每个回答都对应我们发出的一个词（每个频道一次确认，PING 一次 PONG），
    次序与发出的一致，所以一条先进先出的队列就能精确配对，不必按频道名查找。
    """

    def __init__(
        self, handler: ChannelHandler, on_lost: Callable[[Link], None], timeout_s: float
    ) -> None:
        super().__init__(on_lost, timeout_s)
        self._handler = handler
        self._waiting: deque[Waiter] = deque()
        self._verbs: list[tuple[bytes, bytes]] = []
        self._heartbeat: asyncio.TimerHandle | None = None
        self._requests: set[asyncio.Future[None]] = set()
        self._error: MeetingPushError | None = None
        self.handler_errors = 0

    def expecting(self) -> bool:
        return bool(self._waiting)

    # ── 发 ──────────────────────────────────────────────────────────────────

    def request(self, commands: Sequence[Sequence[Argument]]) -> asyncio.Future[None]:
        """发出若干各有一个回答的命令；最后一个的回答到了即完成，断线则失败。"""
        done: asyncio.Future[None] = self._loop.create_future()
        self._requests.add(done)
        done.add_done_callback(self._requests.discard)
        self._send(commands, [None] * (len(commands) - 1) + [done])
        return done

    def queue(self, verb: bytes, channel: bytes, waiter: Waiter) -> None:
        """排入一个订阅或退订；同一轮里相邻的同一个动词合成一条命令。

        ``waiter`` 在确认到达时完成；断线时不动它，由 ``Subscriber`` 在重连后兑现。
        """
        if not self._verbs:
            self._loop.call_soon(self._send_verbs)
        self._verbs.append((verb, channel))
        self._expect([waiter])

    def start_heartbeat(self) -> None:
        """定期 PING：订阅连接平时只听不说，不问就不知道对方死了。"""
        if not self._waiting:
            self._send([(b"PING",)], [None])
        self._heartbeat = self._loop.call_later(self._tick_s, self.start_heartbeat)

    def _send(self, commands: Sequence[Sequence[Argument]], waiters: Iterable[Waiter]) -> None:
        self._send_verbs()  # 等待者已排在前面的，命令也必须先写
        self._expect(waiters)
        self.write(b"".join([pack(*args) for args in commands]))

    def _send_verbs(self) -> None:
        verbs, self._verbs = self._verbs, []
        for verb, run in groupby(verbs, key=itemgetter(0)):
            self.write(pack(verb, *[channel for _, channel in run]))

    def _expect(self, waiters: Iterable[Waiter]) -> None:
        if not self._waiting:
            self._silent = 0
        self._waiting.extend(waiters)

    # ── 收 ──────────────────────────────────────────────────────────────────

    def data_received(self, data: bytes) -> None:
        self._silent = 0
        self._reader.feed(data)
        gets, handler = self._reader.gets, self._handler
        while True:
            try:
                while (reply := gets()) is not False:
                    if reply.__class__ is list and reply[0] == _MESSAGE:
                        handler(reply[1], reply[2])
                    else:
                        self._take(reply)
                return
            except hiredis.ProtocolError:
                self.abort("protocol_error")
                return
            except Exception as error:  # noqa: BLE001 — 一条坏消息不许带走整个节点的订阅
                self.handler_errors += 1
                logger.opt(exception=error).error("channel_handler_failed")

    def _take(self, reply: Any) -> None:
        if isinstance(reply, MeetingPushError):
            # 一个 SUBSCRIBE 只得到一个错误，配对从此错位：只能重来
            self._error = reply
            self.abort(reply.cause)
            return
        waiter = self._waiting.popleft() if self._waiting else None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # ── 断 ──────────────────────────────────────────────────────────────────

    def connection_lost(self, exc: Exception | None) -> None:
        if self._heartbeat is not None:
            self._heartbeat.cancel()
        super().connection_lost(exc)

    def fail(self, error: MeetingPushError) -> None:
        self._waiting.clear()
        self._verbs.clear()
        for request in list(self._requests):
            if not request.done():
                request.set_exception(self._error or error)
