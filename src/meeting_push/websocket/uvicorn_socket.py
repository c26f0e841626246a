"""uvicorn 的 WebSocket 协议，补上三处有界（CON-1）；会议与 asgi edge 的连接都经过它。"""

from __future__ import annotations

import contextlib
from typing import Final

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState

from .refusals import BAD_REQUEST

#: 应用放手之后，等对方读完最后几帧（关闭帧在其中）多久。
LINGER_S: Final = 5.0


class BoundedWebSocket(WebSocketsSansIOProtocol):
    """说不成握手的、灌 ping 而不读的、关了却不走的，都不能一直占着内存与描述符。"""

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # 请求头是完整地来的；库读不懂（太长、太多、不是 GET）就只记下异常，谁也不回答
        if not self.handshake_initiated and not self.transport.is_closing():
            self._refuse()

    def _refuse(self) -> None:
        """库想好了的回答（414、431），没有就 400；然后断开。"""
        self.transport.write(b"".join(self.conn.data_to_send()) or BAD_REQUEST.wire)
        self.transport.close()
        self.loop.call_later(LINGER_S, self.transport.abort)

    def handle_ping(self) -> None:
        output = self.conn.data_to_send()  # 自动生成的 pong；积压时丢掉，不进无界的写缓冲
        if self.writable.is_set():
            self.transport.write(b"".join(output))

    def send_receive_event_to_app(self) -> None:
        # 无效的 UTF-8 排在对方的关闭帧之后：uvicorn 要再关一次，而已经在关了
        with contextlib.suppress(InvalidState):
            super().send_receive_event_to_app()

    async def run_asgi(self) -> None:
        try:
            await super().run_asgi()
        finally:
            # uvicorn 只是 close()：对方不读，缓冲就排不空，socket 会永远留着
            self.loop.call_later(LINGER_S, self.transport.abort)
