"""uvicorn 的 WebSocket 协议，补上几处有界（CON-1）与几处 RFC；会议与 asgi edge 的连接都经过它。"""

from __future__ import annotations

from typing import Any, Final

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.datastructures import Headers
from websockets.frames import Frame
from websockets.http11 import Request

from ..http.refusals import BAD_REQUEST
from ..http.upgrade_request import UpgradeRequest
from .strict_protocol import StrictProtocol

#: 应用放手之后，等对方读完最后几帧（关闭帧在其中）多久。
LINGER_S: Final = 5.0


class BoundedWebSocket(WebSocketsSansIOProtocol):
    """灌 ping 而不读的、关了却不走的，都不能一直占着内存与描述符。"""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._joined = bytearray()
        self.conn = StrictProtocol(max_size=self.config.ws_max_size, logger=self.logger)

    def data_received(self, data: bytes) -> None:
        if not self.handshake_initiated:
            self._shake_hands(data)
            return
        self.conn.receive_data(data)
        self.handle_events()  # 违规之前的照办；uvicorn 会连它们一起丢掉
        if self.conn.parser_exc is not None:
            self.handle_parser_exception()

    def _shake_hands(self, head: bytes) -> None:
        """请求头是完整地来的，HTTP 一侧已经问过它合不合规矩。"""
        request = UpgradeRequest.parse(head)
        if request is None:
            self.transport.write(BAD_REQUEST.wire)
            self.transport.close()
            self.loop.call_later(LINGER_S, self.transport.abort)
        else:
            headers = Headers([(name, _latin(value)) for name, value in request.headers])
            self.handle_connect(Request(request.target, headers))

    def handle_cont(self, event: Frame) -> None:
        """一片一片地接上：uvicorn 记下每一片，空的也记，一个字节的片要占几十个字节。"""
        self._joined += event.data
        if event.fin:
            self.frames.append(bytes(self._joined))
            self._joined.clear()
            self.send_receive_event_to_app()

    def handle_ping(self) -> None:
        output = self.conn.data_to_send()  # 自动生成的 pong；积压时丢掉，不进无界的写缓冲
        if self.writable.is_set():
            self.transport.write(b"".join(output))

    async def run_asgi(self) -> None:
        try:
            await super().run_asgi()
        finally:
            # uvicorn 只是 close()：对方不读，缓冲就排不空，socket 会永远留着
            self.loop.call_later(LINGER_S, self.transport.abort)


def _latin(value: str) -> str:
    """websockets 的头是 ISO-8859-1 的。"""
    return value.encode("ascii", "surrogateescape").decode("latin-1")
