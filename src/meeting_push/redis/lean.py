"""热路专用的精简连接：hiredis 之上的一个 asyncio 协议，没有连接池；在它上面按 SHA1 调用 Lua。"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterable, Sequence
from importlib.resources import files
from itertools import chain
from typing import Any, Final, TypeVar

from ..errors import MeetingPushError, RedisUnavailableError
from .address import RedisAddress, credentials_refused, greeting
from .command_link import CommandLink
from .dial import Reconnector, dial, most_backoff_s
from .link import Argument, Command, ElsewhereError, Link, ScriptMissingError

Row = TypeVar("Row", bound=Sequence[Any])
#: 一次调用做的各是哪几行，与它要声明的键。
Groups = Sequence[tuple[Sequence[int], Sequence[Argument]]]
PUBLISH: Final = "PUBLISH"
#: 一次调用：要声明的键，参数。
Call = tuple[Sequence[Argument], Sequence[Argument]]


class LeanConnection:
    """一条自己会重连的连接，可被许多任务同时使用；命令按调用次序执行。

    断线时在途的命令全部得到 ``RedisUnavailableError``（不知道执行了没有），此后
    ``execute`` 立即抛出它，直到重新连上。阻塞命令（``XREADGROUP BLOCK``）会挡住后面
    所有命令，只许用在专用的连接上，并把最长的阻塞时间算进 ``timeout_s``。
    """

    #: 往一个人、一个节点的频道（``Keys.is_sharded``）发布用的动词。
    publishing: str = PUBLISH
    #: 每一段槽里的一个 hash tag：槽连着的每个主都管着几个。一台 Redis 没有。
    tags: Sequence[str] = ()

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
    def address(self) -> RedisAddress:
        return self._address

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

    def together(self, rows: int, _keys_of: Callable[[int], Sequence[Argument]]) -> Groups:
        """一次调用里做得了的各几行，与要声明的键；第 i 行碰 ``_keys_of(i)``，它们同槽。

        一台 Redis 不管槽：全部一次，什么也不必声明（决定 0018）。
        """
        return [(range(rows), ())]

    def at_once(self, rows: int, _key_of: Callable[[int], Argument]) -> Groups:
        """接在 ``here.lua`` 之后的脚本一次做得了的：同一个主的各几行，与说出去哪里的那个键。

        ``_key_of(i)``：第 i 行的键之一。槽正在搬的回答 ``ElsewhereError``，再照 ``slot_by_slot``。
        """
        return [(range(rows), ())]

    def slot_by_slot(
        self, places: Sequence[int], keys_of: Callable[[int], Sequence[Argument]]
    ) -> Groups:
        """``together``，只这几行。"""
        groups = self.together(len(places), lambda n: keys_of(places[n]))
        return [([places[n] for n in some], keys) for some, keys in groups]

    def at(self, _key: Argument) -> LeanConnection:
        """到管着这个键的主的；一台 Redis 就是它自己。

        :raises RedisUnavailableError: 那个槽此刻没有连着的主
        """
        return self

    async def everywhere(self, *command: Argument) -> list[Any]:
        """每个主的回答；一台 Redis 只有一个。错误同 ``execute``。"""
        return [await self.execute(*command)]

    def stretch_of(self, _tag: Argument) -> int:
        """一个 hash tag 在哪一段槽里；一台 Redis 只有一段。"""
        return 0

    def one_each(self, name_of: Callable[[int], str]) -> list[str]:
        """``name_of`` 给的名字里，每个主管着的各一个（数从 0 起）。"""
        return [name_of(0)]

    async def values(self, keys: Sequence[Argument]) -> list[bytes | None]:
        """MGET，次序不变；同槽的一条。"""
        groups = self.together(len(keys), lambda at: (keys[at],))
        if len(groups) == 1:
            found: list[bytes | None] = await self.execute("MGET", *keys)
            return found
        commands = [("MGET", *(keys[at] for at in some)) for some, _ in groups]
        return in_order(groups, await self.execute_many(commands), len(keys))

    async def unlink(self, keys: Sequence[Argument]) -> None:
        """同槽的一条。"""
        groups = self.together(len(keys), lambda at: (keys[at],))
        await self.execute_many([("UNLINK", *(keys[at] for at in some)) for some, _ in groups])

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


def in_order(groups: Groups, answers: Iterable[Any], rows: int) -> list[Any]:
    """各组的回答（一行一个）→ 各行的，次序照旧。"""
    found: list[Any] = [None] * rows
    for (some, _), answer in zip(groups, answers, strict=True):
        for at, one in zip(some, answer, strict=True):
            found[at] = one
    return found


def elsewhere(done: Iterable[tuple[Sequence[int], Any]]) -> list[int]:
    """回答是 ``ElsewhereError`` 的各行：槽正在搬，没有做。"""
    return [at for some, answer in done if isinstance(answer, ElsewhereError) for at in some]


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

    async def by_slot(
        self,
        lean: LeanConnection,
        head: Sequence[Argument],
        rows: Sequence[Row],
        keys_of: Callable[[Row], Sequence[str]],
    ) -> list[tuple[Sequence[int], Any]]:
        """一次调用做的是哪几行，与它的回答；参数是 ``head``，随后各行首尾相接。

        ``keys_of``：一行碰的键，都同槽。
        """
        if not rows:
            return []
        groups = lean.together(len(rows), lambda at: keys_of(rows[at]))
        return await self._grouped(lean, head, rows, groups)

    async def by_master(
        self,
        lean: LeanConnection,
        head: Sequence[Argument],
        rows: Sequence[Row],
        keys_of: Callable[[Row], Sequence[str]],
    ) -> list[tuple[Sequence[int], Any]]:
        """同 ``by_slot``，一个主一次；脚本接在 ``here.lua`` 之后。"""
        if not rows:
            return []
        groups = lean.at_once(len(rows), lambda at: keys_of(rows[at])[0])
        done = await self._grouped(lean, head, rows, groups)
        moving = elsewhere(done)
        if not moving:
            return done
        groups = lean.slot_by_slot(moving, lambda at: keys_of(rows[at]))
        stayed = [one for one in done if not isinstance(one[1], ElsewhereError)]
        return stayed + await self._grouped(lean, head, rows, groups)

    async def _grouped(
        self,
        lean: LeanConnection,
        head: Sequence[Argument],
        rows: Sequence[Row],
        groups: Groups,
    ) -> list[tuple[Sequence[int], Any]]:
        calls: list[Call] = []
        for some, keys in groups:
            own = rows if len(some) == len(rows) else [rows[at] for at in some]
            calls.append((keys, [*head, *chain.from_iterable(own)]))
        answers = await self.run_all(lean, calls)
        return [(some, answer) for (some, _), answer in zip(groups, answers, strict=True)]

    async def run_all(self, lean: LeanConnection, calls: Sequence[Call]) -> list[Any]:
        """各调用的回答，次序不变；几次调用一次写出，非原子。"""
        if len(calls) > 1:
            commands = [self.call(*one) for one in calls]
            answers = await lean.execute_many(commands, tolerant=True)
            return await self.completed(lean, calls, answers)
        try:
            return [await self.run(lean, *one) for one in calls]
        except ElsewhereError as error:
            return [error]

    async def completed(
        self, lean: LeanConnection, calls: Sequence[Call], answers: list[Any]
    ) -> list[Any]:
        """``calls`` 的回答，脚本不认识的再来一遍；``ElsewhereError`` 留着，别的拒绝抛出。"""
        for at, answer in enumerate(answers):
            if isinstance(answer, ScriptMissingError):
                [answers[at]] = await self.run_all(lean, [calls[at]])
            elif isinstance(answer, Exception) and not isinstance(answer, ElsewhereError):
                raise answer
        return answers

    async def run(
        self, lean: LeanConnection, keys: Sequence[Argument], args: Sequence[Argument]
    ) -> Any:
        """执行并返回它的回答；错误同 ``LeanConnection.execute``。"""
        try:
            return await lean.execute(*self.call(keys, args))
        except ScriptMissingError:
            return await lean.execute("EVAL", self.text, len(keys), *keys, *args)
