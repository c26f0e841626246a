"""一条活着的连接：读帧、发心跳、就地换令牌。

消息以外的帧与状态的变化：交给应用注册的处理函数。
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, get_args

from ..logs import logger
from ..protocol import frames
from . import wire
from .errors import NotConnectedError
from .intake import Inbox, Intake
from .transports import Transport
from .wire import Event

#: 一帧里除 id 以外的字段，与一个 id 连同引号、逗号的字节数。
_FRAME_OVERHEAD: Final = 128
_ID_BYTES: Final = frames.MESSAGE_ID_LENGTH + 3
#: 服务器提前一分钟提醒；没收到提醒的，这么早自己换。
_RENEW_EARLY_MS: Final = 30_000
#: 令牌的寿命短于提前提醒的时间时，不至于一直换下去。
_MIN_RENEWAL_S: Final = 10
#: 没办成的确认，过这么久再送；一直不成就翻倍，到顶为止。
_ACK_AGAIN_S: Final = (1.0, 30.0)

#: 给一枚新令牌；固定令牌的客户端给 None。
Refresh = Callable[[], Awaitable[str]] | None


class Connection:
    """从 ``welcome`` 之后到关闭；``serve`` 结束后不再可用。"""

    def __init__(
        self,
        transport: Transport,
        welcome: frames.Welcome,
        intake: Intake,
        events: EventHub,
        *,
        dead_after_s: float,
        refresh: Refresh,
    ) -> None:
        self._transport = transport
        self._welcome = welcome
        self._intake = intake
        self._events = events
        self._dead_after_s = dead_after_s
        self._refresh = refresh
        self._heard = asyncio.Event()
        #: 服务器的钟减我们的（毫秒）：我们的可以偏。
        self._skew_ms = welcome.server_time - _now_ms()
        self._expires_at = welcome.token_expires_at
        self._expiring = False
        self._token_news = asyncio.Event()
        #: 上一次心跳时服务器最新的 seq：过了一个间隔还没到手，就是漏了。
        self._expected = 0
        self._ack_again_s = _ACK_AGAIN_S[0]
        self._ack_timer: asyncio.TimerHandle | None = None
        #: 一帧 ``ack``、``read`` 里最多几个 id，服务器的帧上限放得下。
        self.max_ids = min(
            frames.MAX_ACK_IDS, (welcome.max_frame_bytes - _FRAME_OVERHEAD) // _ID_BYTES
        )
        #: 服务器说过要走：在这么久的窗口里重连。
        self.drain_window_s: float | None = None
        #: 我们自己离开的缘由；不是我们则空。
        self.left = ""

    async def send(self, frame: frames.ClientFrame) -> None:
        """:raises NotConnectedError: 已关闭，或走的是 SSE 而说不了这句话；没有留到以后"""
        await self._transport.send(frame)

    async def serve(self, greeting: Sequence[frames.ClientFrame]) -> None:
        """先送 ``greeting``，服务到断开或自己离开，正常返回；缘由在传输的 ``end`` 与 ``left``。"""
        lasting = {asyncio.create_task(self._read())}
        if self._transport.kind == "websocket":  # 事件流的生死由传输自己看
            lasting.add(asyncio.create_task(self._heartbeats()))
        others = {asyncio.create_task(self._unblock_when_gone())}
        if self._refresh is not None and self._transport.kind == "websocket":
            others.add(asyncio.create_task(self._renew(self._refresh)))
        try:
            with contextlib.suppress(NotConnectedError):  # 读的一侧会看到关闭
                for frame in greeting:
                    await self.send(frame)
            done, _ = await asyncio.wait(lasting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            if self._ack_timer is not None:
                self._ack_timer.cancel()
            for task in lasting | others:
                task.cancel()
            await asyncio.gather(*lasting, *others, return_exceptions=True)

    # ── 读 ──────────────────────────────────────────────────────────────────

    async def _read(self) -> None:
        with contextlib.suppress(EOFError):
            while not self.left:
                frame = await self._transport.receive()
                self._heard.set()
                await self._handle(frame)

    async def _unblock_when_gone(self) -> None:
        """套接字没了就不必再替应用存着：让读的一侧赶紧读完剩下的几帧，好去重连。"""
        await self._transport.wait_closed()
        self._intake.inbox.unbound()

    async def _handle(self, frame: wire.AnyServerFrame | None) -> None:
        match frame:
            case wire.NewMessage():
                await self._intake.receive(frame)
            case wire.Batch():
                for message in frame.messages:
                    await self._handle(message)
            case None:
                logger.warning("server_frame_ignored")
            case _:
                self._heed(frame)
                if isinstance(frame, Event):
                    await self._events.offer(frame)

    def _heed(self, frame: wire.AnyServerFrame) -> None:
        match frame:
            case frames.HeartbeatAck():
                self._compare(frame.seq)
            case frames.AckResult():
                self._ack_again_s = _ACK_AGAIN_S[0]
                self._intake.acks.confirmed(frame.request_id)
            case frames.TokenExpiring():
                self._expiring = True
                self._token_news.set()
            case frames.TokenRefreshed():
                self._expires_at = frame.token_expires_at
                self._token_news.set()
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

    def _compare(self, newest: int) -> None:
        """一个心跳之前就有的，现在还没有：漏了，带着位置再连。"""
        if self._intake.lacks(self._expected):
            self.left = "missed"
        self._expected = newest

    def _refused(self, frame: frames.ErrorFrame) -> None:
        logger.bind(code=frame.code, temporary=frame.temporary).warning("server_error_frame")
        if not frame.temporary:
            self._intake.acks.confirmed(frame.request_id)
        elif self._intake.acks.again(frame.request_id):
            delay, cap = self._ack_again_s, _ACK_AGAIN_S[1]
            self._ack_again_s = min(cap, 2 * delay)
            wake = self._intake.changed.set
            self._ack_timer = asyncio.get_running_loop().call_later(delay, wake)

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
                await self._transport.wait_closed()
                return
            except TimeoutError:
                if not self._stalled:
                    logger.bind(after_s=self._dead_after_s).warning("server_silent")
                    self.left = "server_silent"
                    return

    async def _beat(self) -> None:
        beat = frames.Heartbeat(timestamp=_now_ms(), connection_id=self._welcome.connection_id)
        await self.send(beat)

    @property
    def _stalled(self) -> bool:
        """应用来不及处理，是我们自己没在读：不能怪服务器没声息。"""
        return self._intake.inbox.full or self._events.full

    # ── 换令牌 ──────────────────────────────────────────────────────────────

    async def _renew(self, refresh: Callable[[], Awaitable[str]]) -> None:
        """到期前就地换，不断线；服务器的提醒与自己的定时，哪个先到听哪个。"""
        loop, last = asyncio.get_running_loop(), float("-inf")
        while True:
            await self._token_matters()
            expiring, self._expiring = self._expiring, False
            if not expiring or loop.time() - last < _MIN_RENEWAL_S:
                continue
            last = loop.time()
            try:
                await self.send(frames.RefreshTokenFrame(token=await refresh()))
            except Exception as error:  # noqa: BLE001 — 回调是应用的代码
                # 不必就此断开：真到期时服务器以 4004 关闭，重连前会再问一次
                logger.bind(error=type(error).__name__).warning("token_refresh_failed")

    async def _token_matters(self) -> None:
        """等到该换了（``_expiring``），或到期的时刻变了。"""
        left_ms = self._expires_at - _RENEW_EARLY_MS - (_now_ms() + self._skew_ms)
        timed = self._expires_at > 0 and left_ms > 0
        try:
            async with asyncio.timeout(left_ms / 1000 if timed else None):
                await self._token_news.wait()
        except TimeoutError:
            self._expiring = True
        self._token_news.clear()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


#: 参数是 ``protocol.frames`` 里的结构，或 ``ConnectionState``；同步函数、协程函数都可以。
EventHandler = Callable[[Any], object]

_TYPES: Final = {kind: str(kind.__struct_config__.tag) for kind in get_args(Event)}
#: 状态每变一次就说的；``frame`` 是上面的每一帧。
_STATES: Final = ("state", "disconnected", "connecting", "connected")
_NAMES: Final = (*_TYPES.values(), "frame", *_STATES)
_QUEUE_LIMIT: Final = 1_000


class EventHub:
    """帧逐个处理，按到达次序，与消息之间没有次序可言；状态的变化当场说。"""

    def __init__(self) -> None:
        self._handlers: defaultdict[str, list[EventHandler]] = defaultdict(list)
        self._queue: Inbox[tuple[str, Event]] = Inbox(_QUEUE_LIMIT)
        self._telling: set[asyncio.Task[None]] = set()

    @property
    def full(self) -> bool:
        return self._queue.full

    def on(self, event: str, handler: EventHandler) -> Callable[[], None]:
        """返回的函数取消它。

        :raises ValueError: 没有这种帧
        """
        if event not in _NAMES:
            raise ValueError(f"unknown event {event!r}; one of {', '.join(_NAMES)}")
        handlers = self._handlers[event]
        handlers.append(handler)

        def off() -> None:
            with contextlib.suppress(ValueError):
                handlers.remove(handler)

        return off

    async def offer(self, frame: Event) -> None:
        """没人要的直接丢掉；满了就等。"""
        name = _TYPES[type(frame)]
        if self._handlers.get(name) or self._handlers.get("frame"):
            await self._queue.put((name, frame))

    def tell(self, name: str, value: object) -> None:
        """当场说：同步的处理函数已返回，协程的在跑。"""
        for handler in list(self._handlers.get(name, ())):
            result = _call(handler, name, value)
            if result is not None:
                task = asyncio.ensure_future(_finish(result, name))
                self._telling.add(task)
                task.add_done_callback(self._telling.discard)

    async def run(self) -> None:
        """逐个交给处理函数，直到被取消。"""
        while (item := await self._queue.get()) is not None:
            name, frame = item
            for handler in [*self._handlers[name], *self._handlers["frame"]]:
                if (result := _call(handler, name, frame)) is not None:
                    await _finish(result, name)


def _call(handler: EventHandler, name: str, value: object) -> Awaitable[object] | None:
    """应用的代码什么都可能抛；一个坏的处理函数不该停掉连接。"""
    try:
        result = handler(value)
    except Exception:  # noqa: BLE001
        logger.opt(exception=True).bind(frame_type=name).error("event_handler_failed")
        return None
    return result if inspect.isawaitable(result) else None


async def _finish(result: Awaitable[object], name: str) -> None:
    try:
        await result
    except Exception:  # noqa: BLE001 — 同上
        logger.opt(exception=True).bind(frame_type=name).error("event_handler_failed")
