"""热路专用的精简连接：hiredis 之上的一个 asyncio 协议，没有连接池。

每条命令除一个 future 外不产生对象；一轮事件循环里的命令合成一次写。
客户端每条命令约 2 µs，redis-py 的管道约 18 µs。
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from ...errors import MeetingPushError, RedisUnavailableError
from .address import RedisAddress
from .dial import credentials_refused, dial, greeting
from .link import Argument, Link
from .reconnect import Reconnector
from .wire import Wire


class LeanConnection:
    """一条自己会重连的连接，可被许多任务同时使用；命令按调用次序执行。

    断线时在途的命令全部得到 ``RedisUnavailableError``（不知道执行了没有），此后
    ``execute`` 立即抛出它，直到重新连上。阻塞命令（``XREADGROUP BLOCK``）会挡住后面
    所有命令，只许用在专用的连接上，并把最长的阻塞时间算进 ``timeout_s``。
    """

    def __init__(
        self, address: RedisAddress, *, timeout_s: float = 5.0, name: str = "meeting-push"
    ) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._name = name
        self._wire: Wire | None = None
        self._reconnector = Reconnector(name, self._open)

    @property
    def connected(self) -> bool:
        return self._wire is not None

    @property
    def reconnects(self) -> int:
        return self._reconnector.reconnects

    async def connect(self) -> None:
        """第一次连接；此后断线自动重连。

        :raises RedisUnavailableError: 连不上、超时、正在载入
        :raises ConfigurationError: Redis 拒绝这个用户名或密码
        """
        await self._reconnector.start()

    def execute(self, *args: Argument) -> asyncio.Future[Any]:
        """发出一条命令，返回它的回答（bytes、int、None 或它们的列表）。

        await 它可以取消：命令照样执行，回答被丢弃。

        :raises RedisUnavailableError: 没有连接（同步抛出），或等待中断线、超时、LOADING、OOM …
        :raises RedisCommandError: Redis 拒绝了命令
        """
        if self._wire is None:
            raise self._not_connected()
        return self._wire.send(args)

    def execute_many(
        self, commands: Sequence[Sequence[Argument]], *, tolerant: bool = False
    ) -> asyncio.Future[list[Any]]:
        """一次写出一批命令，全部回答到齐才有结果；非原子。

        有回答是错误时，仍等全部到齐，然后抛出第一个错误。``tolerant``：被拒绝的那几条
        （``RedisCommandError``：键被写坏了）留在结果里各自的位置上，不连累别的；暂时的照样抛出。
        """
        if self._wire is None:
            raise self._not_connected()
        return self._wire.send_many(commands, tolerant=tolerant)

    def _not_connected(self) -> RedisUnavailableError:
        return RedisUnavailableError("not connected to Redis", cause=self._reconnector.cause)

    async def close(self) -> None:
        """关闭，不再重连；在途的命令得到 ``RedisUnavailableError``。可重复调用。"""
        await self._reconnector.stop()
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.close()

    async def _open(self) -> None:
        wire = await dial(
            self._address, lambda: Wire(self._on_lost, self._timeout_s), self._timeout_s
        )
        try:
            await wire.send_many(greeting(self._address, self._name))
            if wire.lost:
                raise RedisUnavailableError("the connection to Redis was lost")
        except MeetingPushError as error:
            wire.close()
            raise credentials_refused(error) or error from None
        except asyncio.CancelledError:
            wire.close()
            raise
        self._wire = wire

    def _on_lost(self, link: Link) -> None:
        if link is self._wire:
            self._wire = None
            self._reconnector.lost(link.cause)
