"""热路专用的精简连接：hiredis 之上的一个 asyncio 协议，没有连接池；在它上面按 SHA1 调用 Lua。"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from ..errors import MeetingPushError, RedisUnavailableError
from .address import RedisAddress, credentials_refused, greeting
from .command_link import CommandLink
from .dial import Reconnector, dial, most_backoff_s
from .link import Argument, Command, Link, ScriptMissingError


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
        self._link: CommandLink | None = None
        self._reconnector = Reconnector(name, self._open, most_backoff_s(address))
        #: 发出的命令，只增。
        self.commands = 0

    @property
    def connected(self) -> bool:
        return self._link is not None

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
        if self._link is None:
            raise self._not_connected()
        self.commands += 1
        return self._link.send(args)

    def execute_many(
        self, commands: Sequence[Sequence[Argument]], *, tolerant: bool = False
    ) -> asyncio.Future[list[Any]]:
        """一次写出一批命令，全部回答到齐才有结果；非原子。

        有回答是错误时，仍等全部到齐，然后抛出第一个错误。``tolerant``：被拒绝的那几条
        （``RedisCommandError``：键被写坏了）留在结果里各自的位置上，不连累别的；暂时的照样抛出。
        """
        if self._link is None:
            raise self._not_connected()
        self.commands += len(commands)
        return self._link.send_many(commands, tolerant=tolerant)

    def _not_connected(self) -> RedisUnavailableError:
        return RedisUnavailableError("not connected to Redis", cause=self._reconnector.cause)

    async def close(self) -> None:
        """关闭，不再重连；在途的命令得到 ``RedisUnavailableError``。可重复调用。"""
        await self._reconnector.stop()
        link, self._link = self._link, None
        if link is not None:
            link.close()

    async def _open(self) -> None:
        link = await dial(
            self._address, lambda: CommandLink(self._on_lost, self._timeout_s), self._timeout_s
        )
        try:
            await link.send_many(greeting(self._address, self._name))
            if link.lost:
                raise RedisUnavailableError("the connection to Redis was lost")
        except MeetingPushError as error:
            link.close()
            raise credentials_refused(error) or error from None
        except asyncio.CancelledError:
            link.close()
            raise
        self._link = link

    def _on_lost(self, link: Link) -> None:
        if link is self._link:
            self._link = None
            self._reconnector.lost(link.cause)


class Script:
    """``redis/lua/<name>.lua``，几个名字则依次相接；按 SHA1 调用，Redis 不认识时带着全文再来。

    NOSCRIPT 表示什么都没执行，所以重来是安全的（重启、SCRIPT FLUSH、主从切换之后）。
    """

    def __init__(self, *names: str) -> None:
        folder = files(__package__).joinpath("lua")
        self.text = b"".join([folder.joinpath(f"{name}.lua").read_bytes() for name in names])
        self._sha = hashlib.sha1(self.text, usedforsecurity=False).hexdigest()

    def call(self, keys: Sequence[Argument], args: Sequence[Argument]) -> Command:
        """一条命令，与别的一起写出；``ScriptMissingError`` 的再 ``run`` 一遍。"""
        return ("EVALSHA", self._sha, len(keys), *keys, *args)

    async def run(
        self, lean: LeanConnection, keys: Sequence[Argument], args: Sequence[Argument]
    ) -> Any:
        """执行并返回它的回答；错误同 ``LeanConnection.execute``。"""
        try:
            return await lean.execute(*self.call(keys, args))
        except ScriptMissingError:
            return await lean.execute("EVAL", self.text, len(keys), *keys, *args)
