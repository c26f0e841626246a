"""主会换的 Redis：折腾它的人不问是 Sentinel 换的还是 Cluster 自己换的。

Redis 与 Redis 之间走的是各自门前的代理（它们报出的就是代理的端口），服务器去哪一台都走自己的代理：
掐了一台的门，别的 Redis 看不见它，服务器照样往里写，正是会丢的那种。
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from abc import abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from meeting_push.errors import MeetingPushError
from meeting_push.redis.address import RedisAddress
from meeting_push.redis.lean import LeanConnection

from ..failure import BenchError
from ..tcp_proxy import TcpProxy
from .child import Child
from .patience import Patience
from .redis_side import PROBE_TIMEOUT_S, RedisSide

#: 一台这么久不答就算死了；忙着的机器上再短就会无故地换。
DOWN_AFTER_MS: Final = 2_000
#: 换主、副本跟上：隔这么久看一次，至多等这么久（选举要几秒，忙着的机器几十秒）。
POLL_S: Final = 0.1
PATIENCE_S: Final = 180.0
#: 请它让位，这么久还没有换就再请。
GIVE_WAY_S: Final = 8.0

T = TypeVar("T")

#: 怎样让它回来。
Mend = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Node:
    """``port``：它自己的；``door``：别的 Redis（与 Sentinel）从这里去，也是它报出的。"""

    child: Child
    port: int
    door: TcpProxy


class ReplicatedRedis(RedisSide):
    """主会换的一组。"""

    @abstractmethod
    async def master(self, pick: int) -> Node:
        """此刻的一个主，它自己也这么说；有几个就凭 ``pick`` 挑。

        :raises BenchError: 一直没有
        """

    @abstractmethod
    async def replaced(self, old: Node) -> None:
        """等到它不再是主。

        :raises BenchError: 一直没有换
        """

    @abstractmethod
    async def whole(self) -> None:
        """等到全部副本都跟上现在的主：此后再死一个，才有人可换。

        :raises BenchError: 一直没有跟上
        """

    @abstractmethod
    async def copies(self, master: Node) -> list[Node]:
        """它的副本：下一个主是其中之一。

        :raises BenchError: 一直没有
        """

    @abstractmethod
    async def holds(self, master: Node) -> Callable[[str], bool]:
        """哪些键此刻归它。"""

    @abstractmethod
    async def fail_over(self, master: Node, *, hard: bool) -> None:
        """请它让位，它还好好的；``hard``：不等副本跟上。"""

    async def give_way(self, master: Node, *, hard: bool) -> None:
        """请到它让了位为止：没有请成的（副本恰好跟不上，整台机器停过）过一会儿再请。

        :raises BenchError: 怎样也不让
        """

        async def gone() -> bool:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GIVE_WAY_S):
                    await self.fail_over(master, hard=hard)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GIVE_WAY_S):
                    await self.replaced(master)
                    return True
            return False

        await until(gone, f"{master.child.name} does not give way")

    @abstractmethod
    async def part(self, master: Node, for_s: float) -> Mend:
        """别的 Redis 看不见它，服务器照样往里写，直到换主；返回怎样让它回来。"""

    async def hang(self, master: Node) -> Mend:
        """SIGSTOP；一被换下就醒，积着的都要做完。"""
        master.child.send(signal.SIGSTOP)

        async def wake() -> None:
            master.child.send(signal.SIGCONT)

        return wake


async def ask(port: int, *command: str | int) -> Any:
    """另开一条连接问一句。

    :raises MeetingPushError: 不答，或答的是错误
    """
    return (await ask_many(port, [command]))[0]


async def ask_many(port: int, commands: list[tuple[str | int, ...]]) -> list[Any]:
    """同 ``ask``，一次几句。"""
    lean = LeanConnection(
        RedisAddress(host="127.0.0.1", port=port), timeout_s=PROBE_TIMEOUT_S, name="chaos-probe"
    )
    try:
        await lean.connect()
        return await lean.execute_many(commands)
    finally:
        await lean.close()


async def until(true: Callable[[], Awaitable[bool]], otherwise: str) -> None:
    """:raises BenchError: 一直不成立"""
    patience = Patience(PATIENCE_S)
    while not await true():
        if patience.over():
            raise BenchError(otherwise)
        await asyncio.sleep(POLL_S)


async def answered(question: Callable[[], Awaitable[T]], otherwise: str) -> T:
    """问到答为止：换着主、整台机器停住过的，都会有一问没有人答。

    :raises BenchError: 一直没有人答
    """
    found: list[T] = []

    async def told() -> bool:
        with contextlib.suppress(MeetingPushError):
            found.append(await question())
        return bool(found)

    await until(told, otherwise)
    return found[0]
