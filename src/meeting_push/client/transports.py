"""一条连接是什么样子，与平常的那一种：WebSocket。只管帧；连不上、断了都是 ``End``。"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from ssl import SSLError
from typing import Final, Literal, Protocol

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.typing import Subprotocol

from ..protocol import frames
from . import wire
from .endpoint import ClientOptions
from .errors import NotConnectedError
from .rest_call import seconds_of

TransportKind = Literal["websocket", "sse"]

#: websockets 在 DEBUG 级打印握手头，令牌就在其中（SEC-2）：不论应用怎么配置，都到不了那一级。
_socket_logger: Final = logging.getLogger("meeting_push.client.websockets")
_socket_logger.setLevel(logging.INFO)


@dataclass(frozen=True, slots=True)
class End:
    """怎样结束的。``code`` 是关闭码，事件流的按它的意思；``status`` 是 HTTP 的，没拒绝为 None。"""

    code: int | None
    reason: str
    status: int | None = None
    retry_after_s: float = 0
    #: 没有人应声：不是服务器不让连。
    unreachable: bool = False


class NotOpenedError(Exception):
    """没有连上；不出本包。"""

    def __init__(self, end: End) -> None:
        super().__init__(end.reason)
        self.end = end


class Transport(Protocol):
    kind: TransportKind

    async def send(self, frame: frames.ClientFrame) -> None:
        """:raises NotConnectedError: 关了，或这条路说不了这句话；没有留到以后"""

    async def receive(self) -> wire.AnyServerFrame | None:
        """下一帧；看不懂的为 None。

        :raises EOFError: 结束了，``end`` 说怎样
        """

    async def wait_closed(self) -> None: ...

    async def close(self) -> None: ...

    @property
    def end(self) -> End: ...


# ── WebSocket ─────────────────────────────────────────────────────────────────


class _Dial(connect):
    """不跟随重定向：子协议里的令牌会被带到别的站点。"""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class SocketTransport:
    kind: TransportKind = "websocket"

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket

    async def send(self, frame: frames.ClientFrame) -> None:
        try:
            await self._socket.send(wire.encode(frame), text=True)
        except ConnectionClosed:
            raise NotConnectedError("the connection is closed") from None

    async def receive(self) -> wire.AnyServerFrame | None:
        try:
            return wire.decode(await self._socket.recv(decode=False))
        except ConnectionClosed:
            raise EOFError from None

    async def wait_closed(self) -> None:
        await self._socket.wait_closed()

    async def close(self) -> None:
        await self._socket.close()

    @property
    def end(self) -> End:
        return End(self._socket.close_code, self._socket.close_reason or "")


async def open_socket(url: str, token: str, options: ClientOptions) -> SocketTransport:
    """升级完成；令牌在子协议里，压缩关闭，不用环境里的代理。

    :raises NotOpenedError: 没有连上
    """
    bearer = f"{frames.BEARER_SUBPROTOCOL_PREFIX}{token}"
    try:
        socket = await _Dial(
            url,
            subprotocols=[Subprotocol(frames.SUBPROTOCOL), Subprotocol(bearer)],
            compression=None,
            proxy=None,
            open_timeout=options.open_timeout_s,
            close_timeout=options.close_timeout_s,
            ping_interval=None,  # 协议自己的心跳已经证明两端活着
            max_size=options.max_frame_bytes,
            logger=_socket_logger,
            ssl=(options.ssl or True) if url.startswith("wss:") else None,
        )
    except InvalidStatus as error:
        raise NotOpenedError(_refused_upgrade(error)) from None
    except (OSError, WebSocketException) as error:
        raise NotOpenedError(unanswered(error)) from None
    return SocketTransport(socket)


def _refused_upgrade(error: InvalidStatus) -> End:
    status = error.response.status_code
    asked_s = seconds_of(error.response.headers.get("Retry-After", "")) or 0
    return End(None, f"http_{status}", status, asked_s)


def unanswered(error: BaseException) -> End:
    """TCP 就没有连上的，多半在重启。一直没有回音的（已经等过了）、TLS 谈不拢的不算。"""
    cause = getattr(error, "os_error", error)  # aiohttp 把它包了一层
    away = isinstance(cause, OSError) and not isinstance(cause, TimeoutError | SSLError)
    return End(None, type(error).__name__, unreachable=away)
