"""uvicorn 的 HTTP 协议，但耐心与请求头都有限：半开的、说一半的、没完没了的连接会被断开。

uvicorn 自己没有这两个上限（它指望前面有代理）：一万个不说话的 socket 会一直占着描述符，一个
写不完的请求头会一直占着内存。升级成 WebSocket 的连接也从这里开始。
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final, cast

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

#: 请求行与请求头；令牌至多 8 KB，浏览器与代理的头合计很少过 16 KB。
MAX_HEAD_BYTES: Final = 64 * 1024
#: 请求体收完的期限：8 MB（``max_request_bytes``）在 2 Mbit/s 的线路上要半分钟。
BODY_TIMEOUT_S: Final = 60.0


class PatientHttp(HttpToolsProtocol):
    """请求头的期限从连上、或从下一个请求的第一个字节算起；请求体的从请求头说完算起。"""

    def __init__(
        self,
        head_timeout_s: float,
        body_timeout_s: float,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, object],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._head_timeout_s = head_timeout_s
        self._body_timeout_s = body_timeout_s
        self._head_bytes = 0
        self._in_head = True
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # 同 uvicorn
        super().connection_made(transport)
        self._wait(self._head_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self.transport.abort()

    def handle_websocket_upgrade(self) -> None:
        self._stop_waiting()  # 此后的期限归 WebSocket 一侧
        super().handle_websocket_upgrade()
        del self.parser  # 它回指我们：不断开，几千条连接的残骸就等着一次长的垃圾回收

    # ── 解析器的回调 ──────────────────────────────────────────────────────

    def on_message_begin(self) -> None:
        self._in_head, self._head_bytes = True, 0
        self._wait(self._head_timeout_s)
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._wait(self._body_timeout_s)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._stop_waiting()
        super().on_message_complete()

    # ── 期限 ──────────────────────────────────────────────────────────────

    def _wait(self, seconds: float) -> None:
        self._stop_waiting()
        self._timer = self.loop.call_later(seconds, self._give_up, seconds)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self, seconds: float) -> None:
        if self.flow.read_paused:  # 是我们自己没有读（上一个请求还没答完）
            self._wait(seconds)
        else:
            self.transport.abort()


def patient_http(
    head_timeout_s: float, body_timeout_s: float = BODY_TIMEOUT_S
) -> type[asyncio.Protocol]:
    """给 uvicorn 的 ``Config(http=…)``；类型写的是类，uvicorn 只是调用它。"""
    factory: Callable[..., PatientHttp] = partial(PatientHttp, head_timeout_s, body_timeout_s)
    return cast(type[asyncio.Protocol], factory)
