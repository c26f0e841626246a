"""一条活着的连接：读帧、发心跳、就地换令牌。

消息以外的帧：交给应用注册的处理函数。
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, get_args

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from ..logs import logger
from ..protocol import frames
from . import wire
from .errors import NotConnectedError
from .intake import Inbox, Intake
from .wire import Event

#: 一帧里除 id 以外的字段，与一个 id 连同引号、逗号的字节数。
_FRAME_OVERHEAD: Final = 128
_ID_BYTES: Final = frames.MESSAGE_ID_LENGTH + 3

#: 给一枚新令牌；固定令牌的客户端给 None。
Refresh = Callable[[], Awaitable[str]] | None


class Connection:
    """从 ``welcome`` 之后到关闭；``serve`` 结束后不再可用。"""

    def __init__(
        self,
        socket: ClientConnection,
        welcome: frames.Welcome,
        intake: Intake,
        events: EventHub,
        *,
        dead_after_s: float,
        refresh: Refresh,
    ) -> None:
        self._socket = socket
        self._welcome = welcome
        self._intake = intake
        self._events = events
        self._dead_after_s = dead_after_s
        self._refresh = refresh
        self._heard = asyncio.Event()
        self._refreshing: asyncio.Task[None] | None = None
        #: 一帧 ``ack``、``read`` 里最多几个 id，服务器的帧上限放得下。
        self.max_ids = min(
            frames.MAX_ACK_IDS, (welcome.max_frame_bytes - _FRAME_OVERHEAD) // _ID_BYTES
        )
        #: 服务器说过要走：在这么久的窗口里重连。
        self.drain_window_s: float | None = None

    async def send(self, frame: frames.ClientFrame) -> None:
        """:raises NotConnectedError: 连接已关闭；没有留到以后"""
        try:
            await self._socket.send(wire.encode(frame), text=True)
        except ConnectionClosed:
            raise NotConnectedError("the connection is closed") from None

    async def serve(self, greeting: Sequence[frames.ClientFrame]) -> None:
        """先送 ``greeting``，服务到连接关闭或服务器没了声息，正常返回；关闭码在套接字上。"""
        heartbeats = asyncio.create_task(self._heartbeats())
        reading = asyncio.create_task(self._read())
        tasks = {heartbeats, reading, asyncio.create_task(self._unblock_when_gone())}
        try:
            with contextlib.suppress(NotConnectedError):  # 读的一侧会看到关闭
                for frame in greeting:
                    await self.send(frame)
            done, _ = await asyncio.wait({heartbeats, reading}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            tasks |= {self._refreshing} if self._refreshing else set()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # ── 读 ──────────────────────────────────────────────────────────────────

    async def _read(self) -> None:
        try:
            while True:
                text = await self._socket.recv(decode=False)
                self._heard.set()
                await self._handle(wire.decode(text))
        except ConnectionClosed:
            return

    async def _unblock_when_gone(self) -> None:
        """套接字没了就不必再替应用存着：让读的一侧赶紧读完剩下的几帧，好去重连。"""
        await self._socket.wait_closed()
        self._intake.inbox.unbound()

    async def _handle(self, frame: wire.AnyServerFrame | None) -> None:
        match frame:
            case wire.NewMessage():
                await self._intake.receive(frame)
            case wire.Batch():
                for message in frame.messages:
                    await self._handle(message)
            case frames.AckResult():
                self._intake.acks.confirmed(frame.request_id)
            case frames.TokenExpiring():
                self._refresh_token()
            case None:
                logger.warning("server_frame_ignored")
            case _:
                await self._announce(frame)

    async def _announce(self, frame: wire.AnyServerFrame) -> None:
        match frame:
            case frames.Withdrawn():
                self._intake.withdrawn(frame)
            case frames.Gap():
                self._intake.gap(frame)
            case frames.Resync():
                self._intake.resync(frame)
            case frames.Notice():
                self.drain_window_s = frame.reconnect_after_ms / 1000
            case frames.ErrorFrame():
                self._refused(frame)
        if isinstance(frame, Event):
            await self._events.offer(frame)

    def _refused(self, frame: frames.ErrorFrame) -> None:
        logger.bind(code=frame.code, temporary=frame.temporary).warning("server_error_frame")
        if not frame.temporary:
            self._intake.acks.confirmed(frame.request_id)

    # ── 心跳 ────────────────────────────────────────────────────────────────

    async def _heartbeats(self) -> None:
        """到时就发；发出后 ``dead_after_s`` 之内什么也没听到，就返回（连接随之关闭）。"""
        while True:
            await asyncio.sleep(self._welcome.heartbeat_interval_s)
            self._heard.clear()
            try:
                async with asyncio.timeout(self._dead_after_s):
                    await self._beat()
                    await self._heard.wait()
            except NotConnectedError:
                return
            except TimeoutError:
                if not self._stalled:
                    logger.bind(after_s=self._dead_after_s).warning("server_silent")
                    return

    async def _beat(self) -> None:
        now = time.time_ns() // 1_000_000
        await self.send(frames.Heartbeat(timestamp=now, connection_id=self._welcome.connection_id))

    @property
    def _stalled(self) -> bool:
        """应用来不及处理，是我们自己没在读：不能怪服务器没声息。"""
        return self._intake.inbox.full or self._events.full

    # ── 换令牌 ──────────────────────────────────────────────────────────────

    def _refresh_token(self) -> None:
        if self._refresh is not None and (self._refreshing is None or self._refreshing.done()):
            self._refreshing = asyncio.create_task(self._send_fresh_token(self._refresh))

    async def _send_fresh_token(self, refresh: Callable[[], Awaitable[str]]) -> None:
        try:
            token = await refresh()
            await self.send(frames.RefreshTokenFrame(token=token))
        except Exception as error:  # noqa: BLE001 — 回调是应用的代码
            # 不必就此断开：真到期时服务器以 4004 关闭，重连前会再问一次
            logger.bind(error=type(error).__name__).warning("token_refresh_failed")


#: 参数是 ``protocol.frames`` 里的对应结构；同步函数、协程函数都可以。
EventHandler = Callable[[Any], object]

_TYPES: Final = {kind: str(kind.__struct_config__.tag) for kind in get_args(Event)}
_QUEUE_LIMIT: Final = 1_000


class EventHub:
    """逐个处理，按到达次序；与消息之间没有次序可言。"""

    def __init__(self) -> None:
        self._handlers: defaultdict[str, list[EventHandler]] = defaultdict(list)
        self._queue: Inbox[tuple[str, Event]] = Inbox(_QUEUE_LIMIT)

    @property
    def full(self) -> bool:
        return self._queue.full

    def on(self, event: str, handler: EventHandler) -> None:
        """:raises ValueError: 没有这种帧"""
        if event not in _TYPES.values():
            raise ValueError(f"unknown event {event!r}; one of {', '.join(_TYPES.values())}")
        self._handlers[event].append(handler)

    async def offer(self, frame: Event) -> None:
        """没人要的直接丢掉；满了就等。"""
        name = _TYPES[type(frame)]
        if name in self._handlers:
            await self._queue.put((name, frame))

    async def run(self) -> None:
        """逐个交给处理函数，直到被取消。"""
        while (item := await self._queue.get()) is not None:
            name, frame = item
            for handler in self._handlers[name]:
                await _call(handler, name, frame)


async def _call(handler: EventHandler, name: str, frame: Event) -> None:
    try:
        result = handler(frame)
        if inspect.isawaitable(result):
            await result
    except Exception:  # noqa: BLE001 — 应用的代码什么都可能抛；一个坏的处理函数不该停掉连接
        logger.opt(exception=True).bind(frame_type=name).error("event_handler_failed")
