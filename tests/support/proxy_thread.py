"""在自己的线程里跑的 ``TcpProxy``：给会阻塞事件循环的夹具（``ServerProcess``）与同步的测试用。"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit, urlunsplit

from meeting_push_bench.tcp_proxy import TcpProxy, Upstream


class ProxyThread:
    """方法同 ``TcpProxy``，返回时已生效。"""

    def __init__(self, proxy: TcpProxy, loop: asyncio.AbstractEventLoop) -> None:
        self._proxy = proxy
        self._loop = loop
        self.port = proxy.port

    @property
    def swallowed(self) -> int:
        return self._proxy.swallowed

    def through(self, url: str) -> str:
        """``url`` 改道经过这里；别的部分不变。"""
        parts = urlsplit(url)
        login = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
        return urlunsplit(parts._replace(netloc=f"{login}127.0.0.1:{self.port}"))

    def cut(self) -> None:
        self._call(self._proxy.cut)

    def refuse(self) -> None:
        self._call(self._proxy.refuse)

    def hold(self, *, answers_only: bool = False) -> None:
        self._call(lambda: self._proxy.hold(answers_only=answers_only))

    def swallow(self, *, answers_only: bool = False) -> None:
        self._call(lambda: self._proxy.swallow(answers_only=answers_only))

    def delay(self, seconds: float) -> None:
        self._call(lambda: self._proxy.delay(seconds))

    def release(self) -> None:
        self._call(self._proxy.release)

    def _call(self, act: Callable[[], None]) -> None:
        async def call() -> None:
            act()

        asyncio.run_coroutine_threadsafe(call(), self._loop).result(5)


@contextlib.contextmanager
def proxy_thread(upstream: Upstream) -> Iterator[ProxyThread]:
    """``upstream``：127.0.0.1 的端口，或 unix 套接字的路径。"""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="tcp-proxy")
    thread.start()
    proxy = TcpProxy(upstream)
    try:
        asyncio.run_coroutine_threadsafe(proxy.start(), loop).result(5)
        yield ProxyThread(proxy, loop)
    finally:
        asyncio.run_coroutine_threadsafe(proxy.close(), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
