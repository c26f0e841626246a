"""联络：连上、断了再连，直到被取消或服务器不许再连。"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from typing import Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.typing import Subprotocol

from ..errors import MeetingPushError
from ..logs import logger
from ..person_id import PersonId
from ..protocol import frames
from ..protocol.codes import CloseCode, may_reconnect
from . import wire
from .connection import Connection, EventHub
from .endpoint import Backoff, ClientOptions, Endpoint, TokenSource, lasts, obtain, user_id_in
from .errors import HandshakeRejectedError, PushRefusedError
from .intake import Intake

#: websockets 在 DEBUG 级打印握手头，令牌就在其中（SEC-2）：不论应用怎么配置，都到不了那一级。
_socket_logger: Final = logging.getLogger("meeting_push.client.websockets")
_socket_logger.setLevel(logging.INFO)


class ClientState(StrEnum):
    """``PushClient.state``。"""

    IDLE = "idle"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    WAITING = "waiting"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class _End:
    """一次尝试怎么结束的。"""

    reason: str
    lasted_s: float = 0
    drain_window_s: float | None = None
    #: 没有人应声：不是服务器不让连。
    unreachable: bool = False


class _Unsuitable(Exception):  # noqa: N818 — 不出本文件
    """第一帧不是 ``welcome``。"""


class _Dial(connect):
    """不跟随重定向：子协议里的令牌会被带到别的站点。"""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


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
        self._ever_connected = False
        self.state = ClientState.IDLE
        self.connection: Connection | None = None

    async def maintain(self) -> None:
        """一直连着，直到被取消。

        :raises PushRefusedError: 关闭码 4500–4999；或固定的令牌过期了
        :raises HandshakeRejectedError: 从未连上过而升级被拒
        :raises MeetingPushError: 令牌回调抛出的、非暂时的错误
        """
        while True:
            self.state = ClientState.CONNECTING
            end = await self._attempt()
            delay = self._delay(end)
            logger.bind(reason=end.reason, delay_s=round(delay, 3)).info("push_reconnecting")
            self.state = ClientState.WAITING
            await asyncio.sleep(delay)

    def _delay(self, end: _End) -> float:
        if end.lasted_s >= self._options.stable_after_s:
            self._backoff.reset()
        if end.drain_window_s:  # 0 不是窗口：所有人立刻一起回来，正是要避免的
            return self._backoff.within(end.drain_window_s)
        return self._backoff.next_delay(
            self._options.unreachable_cap_s if end.unreachable else None
        )

    async def _attempt(self) -> _End:
        """连一次，服务到断开；可以再试的都变成 ``_End``。"""
        try:
            token = await obtain(self._tokens)
            user_id = self._user_id or user_id_in(token, self._options.user_id_claim)
            self._intake.belong_to(user_id)
            socket = await self._dial(user_id, token)
        except MeetingPushError as error:
            if not error.temporary:
                raise
            return _End(error.code)
        except InvalidStatus as error:
            return self._rejected(error.response.status_code)
        except (OSError, WebSocketException) as error:
            return _End(type(error).__name__, unreachable=_unreachable(error))
        try:
            return await self._serve(socket)
        finally:
            await socket.close()

    def _rejected(self, status: int) -> _End:
        """曾经连上过就再试：发布途中的反向代理什么都可能回答。"""
        passing = status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in (
            HTTPStatus.REQUEST_TIMEOUT,
            HTTPStatus.TOO_EARLY,
            HTTPStatus.TOO_MANY_REQUESTS,
        )
        if not passing and not self._ever_connected:
            raise HandshakeRejectedError(status)
        return _End(f"http_{status}")

    async def _dial(self, user_id: PersonId, token: str) -> ClientConnection:
        """升级完成；令牌在子协议里，压缩关闭，不用环境里的代理。"""
        bearer = f"{frames.BEARER_SUBPROTOCOL_PREFIX}{token}"
        return await _Dial(
            self._endpoint.messages_url(
                user_id, self._intake.device_id, self._device_info, self._intake.resume_point
            ),
            subprotocols=[Subprotocol(frames.SUBPROTOCOL), Subprotocol(bearer)],
            compression=None,
            proxy=None,
            open_timeout=self._options.open_timeout_s,
            close_timeout=self._options.close_timeout_s,
            ping_interval=None,  # 协议自己的心跳已经证明两端活着
            max_size=self._options.max_frame_bytes,
            logger=_socket_logger,
            ssl=(self._options.ssl or True) if self._endpoint.secure else None,
        )

    async def _serve(self, socket: ClientConnection) -> _End:
        started = asyncio.get_running_loop().time()
        connection: Connection | None = None
        try:
            connection = self._open(socket, await self._welcome(socket))
            await connection.serve(self._greeting())
        except (ConnectionClosed, TimeoutError, _Unsuitable) as error:
            logger.bind(error=type(error).__name__).debug("push_not_welcomed")
        finally:
            self._connected.clear()
            self.connection = None
            self._intake.closed()
        lasted = asyncio.get_running_loop().time() - started if connection else 0
        return self._ended(socket, lasted, connection.drain_window_s if connection else None)

    async def _welcome(self, socket: ClientConnection) -> frames.Welcome:
        async with asyncio.timeout(self._options.open_timeout_s):
            welcome = wire.decode(await socket.recv(decode=False))
        if not isinstance(welcome, frames.Welcome):
            raise _Unsuitable
        return welcome

    def _open(self, socket: ClientConnection, welcome: frames.Welcome) -> Connection:
        connection = Connection(
            socket,
            welcome,
            self._intake,
            self._events,
            dead_after_s=self._options.dead_after_s,
            refresh=None if isinstance(self._tokens, str) else self._fresh_token,
        )
        self._intake.opened(welcome)
        self._ever_connected = True
        self.connection = connection
        self.state = ClientState.CONNECTED
        self._connected.set()
        logger.bind(connection_id=welcome.connection_id, resumed=welcome.resumed).info(
            "push_connected"
        )
        return connection

    async def _fresh_token(self) -> str:
        return await obtain(self._tokens)

    def _ended(self, socket: ClientConnection, lasted_s: float, window_s: float | None) -> _End:
        """:raises PushRefusedError: 关闭码说不许再连"""
        code, reason = socket.close_code, socket.close_reason or ""
        if code is None:
            return _End("silent", lasted_s, window_s)
        if not may_reconnect(code) or (code == CloseCode.TOKEN_EXPIRED and self._used_up()):
            raise PushRefusedError(code, reason)
        return _End(f"closed_{code}", lasted_s, window_s)

    def _used_up(self) -> bool:
        """固定的令牌到期了，不会有新的。"""
        return isinstance(self._tokens, str) and not lasts(self._tokens)


def _unreachable(error: Exception) -> bool:
    """TCP 就没有连上。一直没有回音的（已经等了 ``open_timeout_s``）、TLS 谈不拢的不算。"""
    return isinstance(error, OSError) and not isinstance(error, TimeoutError | ssl.SSLError)
