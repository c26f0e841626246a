"""夹在两个进程之间的 TCP 代理：可以掐断、扣住、拒绝。不懂协议，一个字节也不改。"""

from __future__ import annotations

import asyncio
from typing import Self, cast

#: TCP 端口，或 unix 套接字的路径。
Upstream = int | str


class _Side(asyncio.Protocol):
    """一条连接的一半；``answers`` 为真的一半面对服务器，读到的是回答。

    uvloop 在 ``connection_made`` 之后才开始读，那时暂停无效：不该过去的字节先存着。
    """

    def __init__(self, link: Link, peer: _Side | None = None) -> None:
        self._link = link
        self._peer = peer
        self._transport: asyncio.Transport | None = None
        self._writable = True
        self._kept: list[bytes] = []
        self._dialling: asyncio.Task[None] | None = None
        self.answers = peer is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._link.refusing:
            self._transport.abort()
            return
        self._link.sides.add(self)
        if self._peer is not None:
            self._peer.meet(self)
        else:
            self._dialling = asyncio.get_running_loop().create_task(self._dial())

    async def _dial(self) -> None:
        try:
            await self._link.dial(_Side(self._link, self))
        except OSError:
            self.abort()

    def meet(self, peer: _Side) -> None:
        if self._transport is None or self._transport.is_closing():
            peer.abort()  # 拨号期间我们这边已经走了
        else:
            self._peer = peer
            self.update()

    def update(self) -> None:
        """该不该读：对面写得动，而且没有被扣住。"""
        transport, peer = self._transport, self._peer
        if transport is None or transport.is_closing() or peer is None or peer._transport is None:
            return
        passing = not self._link.holds(self)
        if passing and self._kept:
            peer._transport.write(b"".join(self._kept))
            self._kept.clear()
        wanted = passing and peer._writable
        if wanted and not transport.is_reading():
            transport.resume_reading()
        elif not wanted and transport.is_reading():
            transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        peer = self._peer
        if peer is None or peer._transport is None or self._link.holds(self):
            self._kept.append(data)
            self.update()
        else:
            peer._transport.write(data)

    def pause_writing(self) -> None:
        self._writable = False
        if self._peer is not None:
            self._peer.update()

    def resume_writing(self) -> None:
        self._writable = True
        if self._peer is not None:
            self._peer.update()

    def connection_lost(self, exc: Exception | None) -> None:
        self._link.sides.discard(self)
        peer = self._peer
        if peer is None or peer._transport is None:
            return
        if exc is None and not self._link.holds(self):
            peer._transport.close()  # 已读到的先写完
        else:
            peer._transport.abort()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class Link:
    """一条链路：``port`` 上来的每条连接都接到 ``upstream``。"""

    def __init__(self, name: str, upstream: Upstream) -> None:
        self.name = name
        self.refusing = False
        self.sides: set[_Side] = set()
        self._upstream = upstream
        self._held = False
        self._answers_only = False
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        assert self._server is not None, "not started"
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def start(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Side(self), "127.0.0.1", 0)
        return self

    async def dial(self, side: _Side) -> None:
        """:raises OSError: 对面不在"""
        loop = asyncio.get_running_loop()
        if isinstance(self._upstream, str):
            await loop.create_unix_connection(lambda: side, self._upstream)
        else:
            await loop.create_connection(lambda: side, "127.0.0.1", self._upstream)

    def holds(self, side: _Side) -> bool:
        return self._held and (side.answers or not self._answers_only)

    def hold(self, *, answers_only: bool) -> None:
        """扣住：连接还在，字节不动。``answers_only`` 时请求照样到达。"""
        self._held, self._answers_only = True, answers_only
        self._update()

    def release(self) -> None:
        """放开扣住的，也不再拒绝。"""
        self._held = self.refusing = False
        self._update()

    def refuse(self) -> None:
        """掐断现有的，新来的一律掐断，直到 ``release``。"""
        self.refusing = True
        self.cut()

    def cut(self) -> None:
        """掐断现有的连接（RST）；可能在一帧的中间。"""
        for side in list(self.sides):
            side.abort()

    def _update(self) -> None:
        for side in list(self.sides):
            side.update()

    async def close(self) -> None:
        self.refuse()
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
