"""uvicorn 的 WebSocket 协议，补上两处有界（CON-1）；会议与 asgi edge 的连接都经过它。"""

from __future__ import annotations

import contextlib
from typing import Final

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState

#: 应用放手之后，等对方读完最后几帧（关闭帧在其中）多久。
LINGER_S: Final = 5.0


class BoundedWebSocket(WebSocketsSansIOProtocol):
    """灌 ping 而不读的、关了却不走的，都不能一直占着内存与描述符。"""

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
