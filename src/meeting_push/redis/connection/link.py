"""一条到 Redis 的裸连接：合并写、发现沉默、断开时通知。不懂回答的含义。"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, cast

import hiredis

from ...errors import MeetingPushError, RedisUnavailableError
from .replies import error_from_reply

Argument = bytes | str | int | float
#: 沉默满这么多个半周期才算对方死了。事件循环自己卡住时，uvloop 先跑定时器后读数据，
#: 所以一次到点不能当真，还要给它读到积压数据的机会。
SILENT_TICKS: Final = 3


def pack(*args: Argument) -> bytes:
    """一条命令的 RESP 字节。"""
    return cast(bytes, hiredis.pack_command(cast(Any, args)))


class Link(asyncio.Protocol):
    """子类提供 ``data_received``、``expecting``、``fail``。

    ``on_lost`` 在连接断开后调用一次（同步）；``timeout_s`` 内对方对我们的话毫无反应
    （实际在 1–1.5 倍之间发现）就断开。
    """

    def __init__(self, on_lost: Callable[[Link], None], timeout_s: float) -> None:
        self._on_lost = on_lost
        self._tick_s = timeout_s / 2
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(replyError=error_from_reply)
        self._transport: asyncio.Transport | None = None
        self._out: list[bytes] = []
        self._silent = 0
        self._timer: asyncio.TimerHandle | None = None
        self.lost = False
        #: 为什么断的，一个词；对方断的是 ``unreachable``。
        self.cause = "unreachable"

    # ── 子类的部分 ───────────────────────────────────────────────────────────

    def expecting(self) -> bool:
        """此刻是否有话等着对方回答。"""
        raise NotImplementedError

    def fail(self, error: MeetingPushError) -> None:
        """连接没了：了结所有等待者。"""
        raise NotImplementedError

    # ── 写 ──────────────────────────────────────────────────────────────────

    def write(self, packed: bytes) -> None:
        """排入本轮事件循环末尾的一次写；同一轮里的都合成一个系统调用。"""
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(packed)
        if self._timer is None:
            self._silent = 0
            self._timer = self._loop.call_later(self._tick_s, self._tick)

    def _flush(self) -> None:
        out, self._out = self._out, []
        if self._transport is not None and not self.lost:
            self._transport.write(b"".join(out))

    # ── 沉默 ────────────────────────────────────────────────────────────────

    def _tick(self) -> None:
        self._timer = None
        if not self.expecting():
            return
        self._silent += 1
        if self._silent >= SILENT_TICKS:
            self.abort("timeout")
            return
        self._timer = self._loop.call_later(self._tick_s, self._tick)

    # ── 生与死 ───────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.fail(RedisUnavailableError("the connection to Redis was lost", cause=self.cause))
        self._on_lost(self)

    def abort(self, cause: str) -> None:
        """立刻断开，不等已写的发完；``cause`` 是一个词的原因，断开的人（``Reconnector``）会说。"""
        if self._transport is not None and not self._transport.is_closing():
            self.cause = cause
            self._transport.abort()

    def close(self) -> None:
        """我们自己要关：写出已排队的，了结等待者，断开。"""
        if self._transport is not None:
            self._flush()
            self.fail(RedisUnavailableError("the connection to Redis was closed"))
            self._transport.abort()  # close() 会等一个不再读的对方
