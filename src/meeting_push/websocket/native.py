"""快的驱动：picows（Cython），推一帧的路上没有协程；每个 socket 见 ``native_socket``。

uvicorn 的 ``Config(ws=…)`` 收下任何产出 protocol 的可调用物：``native_edge`` 的产物先看请求行，
用户连接交给 picows，其余照旧。角色 gateway 用 ``serve_native``：同一个监听器，没有 uvicorn。
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

from picows import (
    WSAutoPingStrategy,
    WSUpgradeRequest,
    WSUpgradeResponse,
    WSUpgradeResponseWithListener,
)
from picows.picows import WSProtocol  # type: ignore[attr-defined]  # 存根里没有它

from ..protocol.forwarded import TrustedProxies
from .handshake import PATH_PREFIX, Handshake, user_id_in_path
from .manager import ConnectionManager
from .native_socket import NativeSocket
from .ops_http import OpsEndpoint, OpsHttp
from .uvicorn_socket import BoundedWebSocket

_READ_BUFFER_BYTES: Final = 1024
_REQUEST_START: Final = b"GET " + PATH_PREFIX.encode()


class _PicowsLog(logging.LoggerAdapter[logging.Logger]):
    """picows 的日志出口：不是 ``Logger``，它就不会为每个 socket 造一个子 logger。

    它把对方的协议错误记为 ERROR；那是客户端的事，谁都能制造，降为 DEBUG。
    """

    def info(self, msg: object, *args: object, **kwargs: Any) -> None:
        """每个连接两行，不要。"""

    def error(self, msg: object, *args: object, **kwargs: Any) -> None:
        self.debug(msg, *args, **kwargs)


_log: Final = _PicowsLog(logging.getLogger("meeting_push.picows"), {})


class _Front(asyncio.Protocol):
    """新连接的门厅：看清请求行，换上该用的 protocol，然后放手。

    picows 一直握着 ``_listen``，所以它与连接同寿：小，且不回指，断开时才不靠垃圾回收。
    """

    __slots__ = (
        "_fallback",
        "_feed",
        "_head",
        "_manager",
        "_siblings",
        "_successor",
        "_timer",
        "_transport",
    )

    def __init__(
        self,
        manager: ConnectionManager,
        fallback: Callable[[], asyncio.Protocol],
        siblings: set[Any],
    ) -> None:
        self._manager = manager
        self._fallback = fallback
        self._siblings = siblings
        self._head = b""
        self._feed: Callable[[bytes], None] | None = None
        self._successor: Any = None
        self._transport: asyncio.Transport
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, transport)
        # 慢吞吞不说要什么的（slowloris）
        self._timer = asyncio.get_running_loop().call_later(
            self._manager.limits.handshake_timeout_s, self._transport.abort
        )

    def data_received(self, data: bytes) -> None:
        if self._feed is None:
            self._head += data
            if len(self._head) < len(_REQUEST_START) and _REQUEST_START.startswith(self._head):
                return
            data, self._head = self._head, b""
            self._feed = self._choose(data.startswith(_REQUEST_START))
        self._feed(data)

    def _choose(self, user_path: bool) -> Callable[[bytes], None]:
        if user_path and self._transport.get_extra_info("socket").family != socket.AF_UNIX:
            self._successor = self._picows()
            feed = self._feed_buffered
        else:
            # picows 要设 TCP 选项，unix socket 上不行；那里由普通的 ASGI 路由接着
            self._stop_waiting()
            self._successor = self._fallback()
            feed = self._successor.data_received
        self._successor.connection_made(self._transport)
        # 调用者（uvicorn）在我们返回后还要把我们设为 protocol，所以晚一步
        asyncio.get_running_loop().call_soon(self._hand_over)
        return feed

    def _hand_over(self) -> None:
        self._transport.set_protocol(self._successor)
        self._feed = self._successor = None

    def _picows(self) -> Any:
        return WSProtocol(
            None,  # host_port
            None,  # ws_path
            False,  # is_client_side
            self._listen,
            _log,
            True,  # disconnect_on_exception
            None,  # websocket_handshake_timeout：由 _timer 管，它的会留下没人取的异常
            False,  # enable_auto_ping
            10,
            10,
            WSAutoPingStrategy.PING_WHEN_IDLE,
            False,  # enable_auto_pong
            self._manager.limits.largest_read_bytes,
            None,  # extra_headers
            _READ_BUFFER_BYTES,
        )

    def _feed_buffered(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest and not self._transport.is_closing():
            room = self._successor.get_buffer(-1)
            part = rest[: len(room)]
            room[: len(part)] = part
            try:
                self._successor.buffer_updated(len(part))
            except UnicodeError:  # picows 要在 400 里引用头部的值，而它不是 ASCII
                self._transport.abort()
            rest = rest[len(part) :]

    def _listen(self, request: WSUpgradeRequest) -> WSUpgradeResponseWithListener:
        """请求完整了：404、403，或者升级。"""
        self._stop_waiting()
        handshake = _handshake(request, self._transport, self._manager.authenticator.proxies)
        if handshake is None:
            return _refusal(404)
        if not self._manager.origin_allowed(handshake):
            return _refusal(403)
        _normalise_connection(request)
        subprotocol = handshake.accepted_subprotocol
        headers = {"Sec-WebSocket-Protocol": subprotocol} if subprotocol else None
        return WSUpgradeResponseWithListener(
            WSUpgradeResponse.create_101_response(headers),
            NativeSocket(self._manager, handshake, self._siblings),
        )

    def eof_received(self) -> bool | None:
        return None if self._successor is None else self._successor.eof_received()

    def _stop_waiting(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        if self._successor is not None:
            self._successor.connection_lost(exc)


def _handshake(
    request: WSUpgradeRequest, transport: asyncio.Transport, proxies: TrustedProxies
) -> Handshake | None:
    path, _, query = request.path.decode("utf-8", "replace").partition("?")
    user_id = user_id_in_path(path)
    if user_id is None:
        return None
    headers = tuple((name.lower(), value) for name, value in request.headers.items())
    peer: Sequence[object] = transport.get_extra_info("peername") or ("",)
    forwarded = request.headers.getall("X-Forwarded-For", [])
    return Handshake(
        user_id, query, headers, proxies.client_address(str(peer[0]), map(str, forwarded))
    )


def _normalise_connection(request: WSUpgradeRequest) -> None:
    """picows 只认 ``Connection: Upgrade``；Firefox 发的是 ``keep-alive, Upgrade``。"""
    tokens = ",".join(request.headers.getall("Connection", [])).lower().split(",")
    if "upgrade" in (token.strip() for token in tokens):
        request.headers["Connection"] = "Upgrade"


def _refusal(status: int) -> WSUpgradeResponseWithListener:
    return WSUpgradeResponseWithListener(WSUpgradeResponse.create_error_response(status), None)


def native_edge(manager: ConnectionManager) -> Callable[..., asyncio.Protocol]:
    """给 uvicorn 的 ``Config(ws=…)``：用户连接走 picows，其它 WebSocket 走 uvicorn 自己的。"""

    def create(config: Any, server_state: Any, app_state: Any, _loop: Any = None) -> _Front:
        def fallback() -> asyncio.Protocol:
            return BoundedWebSocket(config, server_state, app_state, _loop)

        return _Front(manager, fallback, server_state.connections)

    return create


async def serve_native(
    manager: ConnectionManager, *, sock: socket.socket, ops: OpsEndpoint, ssl: Any = None
) -> asyncio.Server:
    """在已绑定的 ``sock`` 上直接服务用户连接；其余的 GET（探针、指标）由 ``ops`` 回答。"""
    timeout_s = manager.limits.handshake_timeout_s
    siblings: set[Any] = set()
    return await asyncio.get_running_loop().create_server(
        lambda: _Front(manager, lambda: OpsHttp(ops, timeout_s), siblings),
        sock=sock,
        backlog=4096,
        ssl=ssl,
    )
