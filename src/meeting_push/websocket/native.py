"""快的驱动：picows（Cython），推一帧的路上没有协程；每个 socket 见 ``native_socket``。

uvicorn 的 ``Config(ws=…)`` 收下任何产出 protocol 的可调用物：``native_edge`` 产出
门厅（``front``），用户连接交给 picows，其余照旧。角色 gateway 用
``serve_native``：同一个监听器，没有 uvicorn。
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from picows import WSAutoPingStrategy, WSUpgradeResponse, WSUpgradeResponseWithListener
from picows.picows import WSProtocol  # type: ignore[attr-defined]  # 存根里没有它

from ..http.doorway import Doorway
from ..http.ops_http import OpsEndpoint, OpsHttp
from .front import BareFront, Front
from .handshake import Handshake
from .manager import ConnectionManager
from .native_socket import NativeSocket
from .uvicorn_socket import BoundedWebSocket

_READ_BUFFER_BYTES: Final = 1024


class _PicowsLog(logging.LoggerAdapter[logging.Logger]):
    """picows 的日志出口：不是 ``Logger``，它就不会为每个 socket 造一个子 logger。

    它把对方的协议错误记为 ERROR；那是客户端的事，谁都能制造，降为 DEBUG。
    """

    def info(self, msg: object, *args: object, **kwargs: Any) -> None:
        """每个连接两行，不要。"""

    def error(self, msg: object, *args: object, **kwargs: Any) -> None:
        self.debug(msg, *args, **kwargs)


_log: Final = _PicowsLog(logging.getLogger("meeting_push.picows"), {})


def _picows(manager: ConnectionManager, siblings: set[Any], handshake: Handshake) -> Any:
    subprotocol = handshake.accepted_subprotocol
    headers = {"Sec-WebSocket-Protocol": subprotocol} if subprotocol else None
    accepted = WSUpgradeResponseWithListener(
        WSUpgradeResponse.create_101_response(headers),
        NativeSocket(manager, handshake, siblings),
    )
    return WSProtocol(
        None,  # host_port
        None,  # ws_path
        False,  # is_client_side
        lambda _request: accepted,
        _log,
        True,  # disconnect_on_exception
        None,  # websocket_handshake_timeout：门厅有自己的，它的会留下没人取的异常
        False,  # enable_auto_ping
        10,
        10,
        WSAutoPingStrategy.PING_WHEN_IDLE,
        False,  # enable_auto_pong
        manager.limits.largest_read_bytes,
        None,  # extra_headers
        _READ_BUFFER_BYTES,
    )


def native_edge(manager: ConnectionManager) -> Callable[..., asyncio.Protocol]:
    """给 uvicorn 的 ``Config(ws=…)``：用户连接走 picows，其它 WebSocket 走 uvicorn 自己的。"""

    def create(config: Any, server_state: Any, app_state: Any, _loop: Any = None) -> Front:
        def fallback() -> asyncio.Protocol:
            return BoundedWebSocket(config, server_state, app_state, _loop)

        return Front(manager, fallback, partial(_picows, manager, server_state.connections))

    return create


async def serve_native(
    manager: ConnectionManager,
    *,
    sock: socket.socket,
    ops: OpsEndpoint,
    doorway: Doorway | None = None,
    ssl: Any = None,
) -> asyncio.Server:
    """在已绑定的 ``sock`` 上直接服务用户连接；其余的 GET（探针、指标）由 ``ops`` 回答。"""
    timeout_s = manager.limits.handshake_timeout_s
    upgraded = partial(_picows, manager, set())
    door = doorway or Doorway()
    return await asyncio.get_running_loop().create_server(
        lambda: BareFront(manager, lambda: OpsHttp(ops, timeout_s, door), upgraded, door),
        sock=sock,
        backlog=4096,
        ssl=ssl,
    )
