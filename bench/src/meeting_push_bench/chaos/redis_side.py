"""Redis 这一边：一台，或几台；每个服务器去那里的链路各有代理夹着。"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

from meeting_push.redis.embedded import answers, find_server

from ..tcp_proxy import TcpProxy
from .child import Child
from .history import HistoryWriter

#: 故障的对象；牵连全部网关的，都是它。
REDIS: Final = "redis"
PROBE_TIMEOUT_S: Final = 2.0


class Line(Protocol):
    """一条会出毛病的链路；各种毛病见 ``TcpProxy``。"""

    @property
    def name(self) -> str: ...
    def cut(self) -> None: ...
    def refuse(self) -> None: ...
    def hold(self, *, answers_only: bool = False) -> None: ...
    def swallow(self, *, answers_only: bool = False) -> None: ...
    def release(self) -> None: ...


class Back:
    """一个服务器去 Redis 的全部链路，一起出毛病；``url`` 是它该用的地址。"""

    def __init__(self, name: str, url: str, proxies: Sequence[TcpProxy]) -> None:
        self.name = name
        self.url = url
        self._proxies = proxies

    def cut(self) -> None:
        for proxy in self._proxies:
            proxy.cut()

    def refuse(self) -> None:
        for proxy in self._proxies:
            proxy.refuse()

    def hold(self, *, answers_only: bool = False) -> None:
        for proxy in self._proxies:
            proxy.hold(answers_only=answers_only)

    def swallow(self, *, answers_only: bool = False) -> None:
        for proxy in self._proxies:
            proxy.swallow(answers_only=answers_only)

    def release(self) -> None:
        for proxy in self._proxies:
            proxy.release()

    async def close(self) -> None:
        for proxy in self._proxies:
            await proxy.close()


class RedisSide(ABC):
    """``url``：旁观者用的，不经过会出毛病的链路；``lock``：同一时刻只有一种故障在折腾它。"""

    def __init__(self, url: str) -> None:
        self.url = url
        self.lock = asyncio.Lock()

    @abstractmethod
    async def start(self) -> None:
        """起来，答得了。

        :raises BenchError: 起不来
        """

    @abstractmethod
    async def stop(self) -> None:
        """全部结束；可重复调用。"""

    @abstractmethod
    async def back(self, name: str) -> Back:
        """服务器 ``name`` 去那里的链路。"""


class AloneRedis(RedisSide):
    """一台，在 unix 套接字上。"""

    def __init__(self, directory: Path, history: HistoryWriter) -> None:
        self._socket = str(directory / "redis.sock")
        super().__init__(f"unix://{self._socket}")
        self.child = Child(
            REDIS,
            [
                str(find_server().path),
                *("--port", "0", "--unixsocket", self._socket, "--dir", str(directory)),
                *PERSISTENCE,
            ],
            directory,
            self._answers,
            history,
        )

    async def start(self) -> None:
        await self.child.start()

    async def stop(self) -> None:
        await self.child.stop()

    async def back(self, name: str) -> Back:
        proxy = await TcpProxy(self._socket, name).start()
        return Back(f"{name}→redis", f"redis://127.0.0.1:{proxy.port}/0", [proxy])

    async def _answers(self) -> bool:
        return await answers(self.url, timeout_s=PROBE_TIMEOUT_S, name="chaos-probe")


#: ``appendfsync no``：每次回答之前都已 write(2)，``kill -9`` 不丢任何回答过的写入。
#: ``everysec`` 在后台 fsync 拖久时会推迟 write(2)；``always`` 只多防断电，而我们只杀进程。
PERSISTENCE: Final = ("--appendonly", "yes", "--appendfsync", "no", "--save", "")
