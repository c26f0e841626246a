"""夹在两个进程之间的 TCP 代理：掐断、拒绝、扣住、吞掉（半开）、拖延、复原。不懂协议。

放行时一个字节也不改。每个方向至多存 ``MAX_KEPT_BYTES``，再多就不读，由 TCP 反压。
方法都在代理自己的事件循环里调用，立即生效。
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, Self, cast

#: TCP 端口，或 unix 套接字的路径。
Upstream = int | str
#: 拖延、扣住时每个方向至多存这么多。
MAX_KEPT_BYTES: Final = 1 << 20


class _Side(asyncio.Protocol):
    """一条连接的一半；``answers`` 为真的一半面对服务器，读到的是回答。"""

    def __init__(self, proxy: TcpProxy, peer: _Side | None = None) -> None:
        self._proxy = proxy
        self._peer = peer
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._writable = True
        #: 该过去而还没过去的（何时可以过去，字节）；uvloop 在 ``connection_made`` 之后才开始读，
        #: 那时暂停无效，所以扣住时也可能有。
        self._kept: deque[tuple[float, bytes]] = deque()
        self._kept_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._dialling: asyncio.Task[None] | None = None
        #: 它的字节流缺了一段，或对面已不在而没有告诉它：复原时只能掐断。
        self.broken = False
        self.answers = peer is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._proxy.refusing:
            self._transport.abort()
            return
        self._proxy.sides.add(self)
        if self._peer is not None:
            self._peer.meet(self)
        elif self._proxy.swallows(self):
            self.broken = True  # 接了，却没有对面
        else:
            self._dialling = self._loop.create_task(self._dial())

    async def _dial(self) -> None:
        try:
            await self._proxy.dial(_Side(self._proxy, self))
        except OSError:
            self.abort()

    def meet(self, peer: _Side) -> None:
        if self._transport is None or self._transport.is_closing():
            peer.abort()  # 拨号期间我们这边已经走了
        else:
            self._peer = peer
            self.update()

    # ── 流过去 ──────────────────────────────────────────────────────────────

    def data_received(self, data: bytes) -> None:
        if self._proxy.swallows(self):
            self._proxy.swallowed += len(data)
            self.broken = True
            return
        if self.answers and self._proxy.rewrite is not None:
            data = self._proxy.rewrite(data)
        self._kept.append((self._loop.time() + self._proxy.delay_s, data))
        self._kept_bytes += len(data)
        self.update()

    def update(self) -> None:
        """送走可以过去的；该不该读：对面写得动，没有被扣住，存得下。"""
        transport, peer = self._transport, self._peer
        if transport is None or transport.is_closing():
            return
        connected = peer is not None and peer._transport is not None
        passing = connected and not self._proxy.holds(self)
        if passing:
            self._pass_on()
        wanted = self._proxy.swallows(self) or (
            passing and peer is not None and peer._writable and self._kept_bytes < MAX_KEPT_BYTES
        )
        if wanted and not transport.is_reading():
            transport.resume_reading()
        elif not wanted and transport.is_reading():
            transport.pause_reading()

    def _pass_on(self) -> None:
        now = self._loop.time()
        while self._kept and (self._kept[0][0] <= now or not self._proxy.delay_s):
            self._hand_over()
        if self._kept and self._timer is None:
            self._timer = self._loop.call_at(self._kept[0][0], self._due)

    def _due(self) -> None:
        self._timer = None
        self.update()

    def _hand_over(self) -> None:
        assert self._peer is not None, "update() looked"
        assert self._peer._transport is not None, "update() looked"
        data = self._kept.popleft()[1]
        self._kept_bytes -= len(data)
        if not self._peer._transport.is_closing():  # uvloop 在关闭了的上面写会抛出
            self._peer._transport.write(data)

    def pause_writing(self) -> None:
        self._writable = False
        if self._peer is not None:
            self._peer.update()

    def resume_writing(self) -> None:
        self._writable = True
        if self._peer is not None:
            self._peer.update()

    # ── 断 ──────────────────────────────────────────────────────────────────

    def connection_lost(self, exc: Exception | None) -> None:
        self._proxy.sides.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        peer = self._peer
        if peer is None or peer._transport is None:
            return
        if self._proxy.swallows(self):
            peer.broken = True  # 半开：对面还不知道
        elif exc is None and not self._proxy.holds(self):
            while self._kept:
                self._hand_over()
            peer._transport.close()  # 已读到的先写完
        else:
            peer._transport.abort()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class TcpProxy:
    """``port`` 上来的每条连接都接到 ``upstream``；``async with`` 启动与关闭它。

    一次一种毛病：``release`` 之后再换另一种。``rewrite``：服务器说的，过去之前先经它（一次读到的
    那么多，不改长短）；它把别处的地址说成自己的，像一道 NAT。
    """

    def __init__(
        self,
        upstream: Upstream,
        name: str = "",
        *,
        rewrite: Callable[[bytes], bytes] | None = None,
    ) -> None:
        self.name = name
        self.rewrite = rewrite
        self.refusing = False
        self.swallowing = False
        self.delay_s = 0.0
        #: 吞掉的字节数。
        self.swallowed = 0
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
        return self._held and self._afflicts(side)

    def swallows(self, side: _Side) -> bool:
        return self.swallowing and self._afflicts(side)

    def _afflicts(self, side: _Side) -> bool:
        return side.answers or not self._answers_only

    # ── 毛病 ────────────────────────────────────────────────────────────────

    def cut(self) -> None:
        """掐断现有的连接（RST），可能在一帧的中间；新来的照常。"""
        for side in list(self.sides):
            side.abort()

    def refuse(self) -> None:
        """掐断现有的，新来的一律掐断。"""
        self.refusing = True
        self.cut()

    def hold(self, *, answers_only: bool = False) -> None:
        """扣住：连接还在，字节不动，复原后一个不少。``answers_only`` 时请求照样到达。"""
        self._held, self._answers_only = True, answers_only
        self._update()

    def swallow(self, *, answers_only: bool = False) -> None:
        """半开：照样接、照样读，什么也不送过去，谁断了对面也不知道；新来的没有对面。

        缺了字节的连接在 ``release`` 时掐断。
        """
        self.swallowing, self._answers_only = True, answers_only
        self._update()

    def delay(self, seconds: float) -> None:
        """每个方向上的每个字节晚到这么久，次序不变。"""
        self.delay_s = seconds
        self._update()

    def release(self) -> None:
        """复原。"""
        self._held = self.refusing = self.swallowing = False
        self.delay_s = 0.0
        for side in [each for each in self.sides if each.broken]:
            side.abort()
        self._update()

    def _update(self) -> None:
        for side in list(self.sides):
            side.update()

    # ── 结束 ────────────────────────────────────────────────────────────────

    async def close(self) -> None:
        self.swallowing = False
        self.refuse()
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.close()
