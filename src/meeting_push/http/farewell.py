"""拒绝一条连接：回答写出、半关，对方再说的都丢掉，几秒之内断开。

直接 ``close`` 的话，内核里还有没读的就发 RST，对方多半读不到回答。
"""

from __future__ import annotations

import asyncio
from typing import Final

#: 等对方读完并先走，多久。
LINGER_S: Final = 2.0
#: 再说这么多还不停的，不等了。
_MAX_IGNORED_BYTES: Final = 1024 * 1024


def say_farewell(transport: asyncio.Transport, answer: bytes) -> None:
    """``answer`` 是最后一句；此后这个传输不再归调用者。"""
    transport.write(answer)
    if not transport.can_write_eof():  # TLS：没有半关
        transport.close()
        return
    transport.write_eof()
    # 晚一步：调用者可能正在 data_received 里，而 uvicorn 在其后还要设一次 protocol
    loop = asyncio.get_running_loop()
    loop.call_soon(transport.set_protocol, _Leaving(transport, loop))


class _Leaving(asyncio.Protocol):
    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._ignored = 0
        self._timer = loop.call_later(LINGER_S, transport.abort)

    def data_received(self, data: bytes) -> None:
        self._ignored += len(data)
        if self._ignored > _MAX_IGNORED_BYTES:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
