"""联络：连上、断了再连、换一种走法，直到被取消或服务器不许再连。"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from typing import Final

from ..errors import MeetingPushError
from ..logs import logger
from ..person_id import PersonId
from ..protocol import frames
from ..protocol.codes import CloseCode, may_reconnect
from .connection import Connection, EventHub
from .endpoint import (
    Backoff,
    ClientOptions,
    Endpoint,
    RestOptions,
    TokenSource,
    lasts,
    obtain,
    user_id_in,
)
from .errors import HandshakeRejectedError, PushRefusedError
from .event_stream import open_stream
from .intake import Intake
from .rest_call import HttpCaller
from .transports import End, NotOpenedError, Transport, TransportKind, open_socket


class ClientState(StrEnum):
    """``ConnectionState.name``，与 JavaScript 的一样。"""

    DISCONNECTED = "disconnected"
    CONNECTING = "connecting"
    CONNECTED = "connected"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionState:
    """``final``：不会自己再连；否则 ``retry_at`` 是下一次（毫秒，Unix 纪元起）。

    ``code`` 是关闭码，``reason`` 是它的名或我们的缘由；``transport`` 连着才有。
    """

    name: ClientState
    transport: TransportKind | None = None
    code: int | None = None
    reason: str = ""
    retry_at: int | None = None
    final: bool = False


IDLE: Final = ConnectionState(name=ClientState.DISCONNECTED, reason="not_started", final=True)
#: 连着这么多次没等到 ``welcome``、也不是服务器自己关的：这条路也许不通。
_WEBSOCKET_TRIES: Final = 2
#: 这两个说的是“太多了”：不从最短的退避开始。
_CROWDED: Final = (CloseCode.RATE_LIMITED, CloseCode.TOO_MANY_CONNECTIONS)
_BUSY: Final = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
_CROWDED_FAILURES: Final = 3
_OURS: Final = 4000
_PASSING: Final = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)


@dataclass(frozen=True, slots=True)
class _Outcome:
    """一次尝试怎么结束的。"""

    end: End
    lasted_s: float = 0
    drain_window_s: float | None = None
    #: 现在就走另一条路看看。
    elsewhere: bool = False


class Lifeline:
    """``connection`` 与 ``state`` 供 ``PushClient`` 观察；``connected`` 只在连上时置位。"""

    def __init__(
        self,
        endpoint: Endpoint,
        tokens: TokenSource,
        intake: Intake,
        events: EventHub,
        *,
        user_id: PersonId | None,
        greeting: Callable[[], Sequence[frames.ClientFrame]],
        device_info: str,
        connected: asyncio.Event,
        options: ClientOptions,
    ) -> None:
        self._endpoint = endpoint
        self._tokens = tokens
        self._intake = intake
        self._events = events
        self._user_id = user_id
        self._greeting = greeting
        self._device_info = device_info
        self._connected = connected
        self._options = options
        self._backoff = Backoff(options.backoff_base_s, options.backoff_cap_s, random.random)
        rest = RestOptions(timeout_s=options.open_timeout_s, ssl=options.ssl)
        self._rest = HttpCaller(endpoint, rest)
        self._ever_connected = False
        self._socket_failures = 0
        #: 在此之前走 SSE（单调时钟）；0 是没有换过去。
        self._stream_until = 0.0
        #: 手里的令牌刚被说过期：要一枚新的。
        self._fresh = False
        self._hurry = asyncio.Event()
        self.state = IDLE
        self.connection: Connection | None = None

    async def maintain(self) -> None:
        """一直连着，直到被取消。

        :raises PushRefusedError: 关闭码 4500–4999；或固定的令牌过期了
        :raises HandshakeRejectedError: 从未连上过而被拒
        :raises MeetingPushError: 令牌回调抛出的、非暂时的错误
        """
        try:
            while True:
                self._become(ConnectionState(name=ClientState.CONNECTING))
                outcome = await self._attempt()
                if outcome is not None:
                    await self._rest_a_while(outcome)
        except PushRefusedError as error:
            self.finish(error.reason, error.close_code)
            raise
        finally:
            await self._rest.aclose()

    def retry_now(self) -> None:
        """等着就现在连；别的时候无事。"""
        self._hurry.set()

    def finish(self, reason: str, code: int | None = None) -> None:
        """不会再连；已经说过的不再说。"""
        if not self.state.final or self.state is IDLE:
            name = ClientState.DISCONNECTED
            self._become(ConnectionState(name=name, code=code, reason=reason, final=True))

    def _become(self, state: ConnectionState) -> None:
        self.state = state
        self._events.tell("state", state)
        self._events.tell(state.name, state)

    # ── 断 ──────────────────────────────────────────────────────────────────

    async def _rest_a_while(self, outcome: _Outcome) -> None:
        end, delay = outcome.end, self._delay(outcome)
        reason = end.reason or f"closed_{end.code}"
        logger.bind(reason=reason, delay_s=round(delay, 3)).info("push_reconnecting")
        self._hurry.clear()
        self._become(
            ConnectionState(
                name=ClientState.DISCONNECTED,
                code=end.code,
                reason=reason,
                retry_at=int((time.time() + delay) * 1000),
            )
        )
        with suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self._hurry.wait()

    def _delay(self, outcome: _Outcome) -> float:
        end = outcome.end
        if outcome.lasted_s >= self._options.stable_after_s:
            self._backoff.reset()
        if outcome.drain_window_s:  # 0 不是窗口：所有人立刻一起回来，正是要避免的
            return self._backoff.within(outcome.drain_window_s)
        if end.code in _CROWDED or end.status in _BUSY:
            self._backoff.at_least(_CROWDED_FAILURES)
        cap = self._options.unreachable_cap_s if end.unreachable else None
        delay = self._backoff.next_delay(cap)
        return 0 if outcome.elsewhere else end.retry_after_s + delay

    def _judge(self, end: End) -> None:
        """:raises PushRefusedError: 关闭码说不许再连"""
        code = end.code
        if code is None:
            return
        if code == CloseCode.TOKEN_EXPIRED:
            self._fresh = True
        if not may_reconnect(code) or (code == CloseCode.TOKEN_EXPIRED and self._used_up()):
            raise PushRefusedError(code, end.reason)

    def _used_up(self) -> bool:
        """固定的令牌到期了，不会有新的。"""
        return isinstance(self._tokens, str) and not lasts(self._tokens)

    # ── 走哪条路 ────────────────────────────────────────────────────────────

    def _choose(self) -> TransportKind:
        if self._options.transport != "auto":
            return self._options.transport
        now = _now()
        if self._stream_until > now:
            return "sse"
        if self._stream_until > 0:  # 到时候了：试一次，不成就回来
            self._stream_until, self._socket_failures = 0, _WEBSOCKET_TRIES - 1
            return "websocket"
        if self._socket_failures < _WEBSOCKET_TRIES:
            return "websocket"
        self._stream_until = now + self._options.websocket_retry_s
        return "sse"

    def _not_welcomed(self, kind: TransportKind, end: End) -> _Outcome:
        """没等到 ``welcome``。服务器以自己的码关闭的不算：路是通的；没有人在听的也不算。

        反向代理后面，服务器在重启也是被拒：第二次不成就立刻走 SSE 看看，它也不通就不是路的事；
        隔一会儿再看，看见的可能已是重启好了的服务器。

        :raises HandshakeRejectedError: 从未连上过，而回答不是过一会儿就好的
        """
        if end.code is not None and end.code >= _OURS:
            return _Outcome(end)
        if kind == "sse":
            self._socket_failures, self._stream_until = 0, 0  # SSE 也不通：不是路的事
        elif not end.unreachable:
            self._socket_failures += 1
        self._require_hope(kind, end)
        failed = self._socket_failures >= _WEBSOCKET_TRIES
        return _Outcome(end, elsewhere=failed and self._options.transport == "auto")

    def _require_hope(self, kind: TransportKind, end: End) -> None:
        """:raises HandshakeRejectedError: 同 ``_not_welcomed``"""
        if end.status is None or self._ever_connected or _passing(end.status):
            return  # 曾经连上过就再试：发布途中的反向代理什么都可能回答
        if kind == "sse" or self._options.transport == "websocket":
            raise HandshakeRejectedError(end.status)

    # ── 连 ──────────────────────────────────────────────────────────────────

    async def _attempt(self) -> _Outcome | None:
        """连一次，服务到断开；None：马上再来（换一条路）。"""
        fresh, self._fresh = self._fresh, False
        try:
            token = await obtain(self._tokens, fresh=fresh)
            user_id = self._user_id or user_id_in(token, self._options.user_id_claim)
        except MeetingPushError as error:
            if not error.temporary:
                raise
            return self._no_token(fresh, error.code)
        except OSError as error:  # 回调自己的网络
            return self._no_token(fresh, type(error).__name__)
        self._intake.belong_to(user_id)
        kind = self._choose()
        try:
            transport = await self._dial(kind, user_id, token)
        except NotOpenedError as error:
            self._judge(error.end)
            return self._not_welcomed(kind, error.end)
        try:
            return await self._serve(transport)
        finally:
            await transport.close()

    def _no_token(self, fresh: bool, reason: str) -> _Outcome:
        self._fresh = fresh
        return _Outcome(End(None, reason))

    async def _dial(self, kind: TransportKind, user_id: PersonId, token: str) -> Transport:
        device = (user_id, self._intake.device_id, self._device_info, self._intake.resume_point)
        if kind == "sse":
            url = self._endpoint.stream_url(*device)
            return await open_stream(url, token, self._rest, self._options)
        return await open_socket(self._endpoint.messages_url(*device), token, self._options)

    async def _serve(self, transport: Transport) -> _Outcome | None:
        try:
            welcome = await self._welcome(transport)
        except NotOpenedError as error:
            logger.bind(error=error.end.reason).debug("push_not_welcomed")
            self._judge(error.end)
            return self._not_welcomed(transport.kind, error.end)
        started, connection = _now(), self._open(transport, welcome)
        try:
            async with asyncio.timeout_at(self._switch_at(transport.kind)):
                await connection.serve(self._greeting())
        except TimeoutError:
            return None
        finally:
            self._connected.clear()
            self.connection = None
            self._intake.closed()
        end = End(None, connection.left) if connection.left else transport.end
        self._judge(end)
        return _Outcome(end, _now() - started, connection.drain_window_s)

    async def _welcome(self, transport: Transport) -> frames.Welcome:
        """:raises NotOpenedError: 没有等到，或第一帧不是它"""
        try:
            async with asyncio.timeout(self._options.open_timeout_s):
                welcome = await transport.receive()
        except TimeoutError:
            raise NotOpenedError(End(None, "open_timeout")) from None
        except EOFError:
            raise NotOpenedError(transport.end) from None
        if not isinstance(welcome, frames.Welcome):
            raise NotOpenedError(End(None, "no_welcome"))
        return welcome

    def _open(self, transport: Transport, welcome: frames.Welcome) -> Connection:
        connection = Connection(
            transport,
            welcome,
            self._intake,
            self._events,
            dead_after_s=self._options.dead_after_s,
            refresh=None if isinstance(self._tokens, str) else self._fresh_token,
        )
        self._intake.opened(welcome)
        self._ever_connected = True
        if transport.kind == "websocket":
            self._socket_failures = 0
        self.connection = connection
        self._connected.set()
        self._become(ConnectionState(name=ClientState.CONNECTED, transport=transport.kind))
        logger.bind(connection_id=welcome.connection_id, resumed=welcome.resumed).info(
            "push_connected"
        )
        return connection

    def _switch_at(self, kind: TransportKind) -> float | None:
        """该再试 WebSocket 的时刻（循环的钟）；不必则 None。"""
        return self._stream_until if kind == "sse" and self._stream_until > 0 else None

    async def _fresh_token(self) -> str:
        return await obtain(self._tokens, fresh=True)


def _passing(status: int) -> bool:
    return status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _PASSING


def _now() -> float:
    return asyncio.get_running_loop().time()
