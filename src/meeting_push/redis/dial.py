"""到 Redis 去：拨号，断了重来。"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Final, TypeVar
from weakref import WeakKeyDictionary

from ..errors import MeetingPushError, RedisUnavailableError
from ..logs import RepeatedWarning, logger
from ..supervision import Backoff
from .address import RedisAddress as RedisAddress
from .address import credentials_refused as credentials_refused
from .address import greeting as greeting
from .address import open_link
from .link import Link
from .sentinel import find_master
from .slot_map import ANSWER_S, find_slots, node_address

L = TypeVar("L", bound=Link)

#: 还活着的：地址与对方。换主的消息一到（``switches``、``masters``），连着旧的都断开。
_dialled: Final[WeakKeyDictionary[Link, tuple[RedisAddress, str, int]]] = WeakKeyDictionary()


async def dial(address: RedisAddress, factory: Callable[[], L], timeout_s: float) -> L:
    """打开传输层；地址是一组 Sentinel 的，到此刻的主去；是 Cluster 的，随便哪个主。

    :raises RedisUnavailableError: 拒绝、超时、名字解析失败、TLS 失败；没有主（正在切换）
    :raises ConfigurationError: 见 ``find_master``
    """
    if address.cluster:
        return await _any_master(address, factory, timeout_s)
    there = address if address.sentinels is None else await find_master(address, timeout_s)
    link = await open_link(there, factory, timeout_s)
    _dialled[link] = (address, there.host, there.port)
    return link


async def _any_master(address: RedisAddress, factory: Callable[[], L], timeout_s: float) -> L:
    """各个进程散开；挂着的、刚死的换一个。"""
    masters = (await find_slots(address, address.cluster, timeout_s)).masters
    random.shuffle(masters)
    unreachable = RedisUnavailableError("slots without a master", cause="cluster_down")
    for node in masters:
        try:
            there = node_address(address, node)
            return await dial(there, factory, min(timeout_s, ANSWER_S))
        except RedisUnavailableError as error:
            unreachable = error
    try:
        raise unreachable
    finally:
        del unreachable  # 它的回溯指着这一帧：一个环，等着垃圾回收


def leave_others(address: RedisAddress, host: str, port: int) -> int:
    """主是 ``host:port`` 了：同一个地址、连着别处的断开；返回断开了几条。"""
    others = [
        link for link, dialled in _dialled.items() if _elsewhere(dialled, address, host, port)
    ]
    for link in others:
        link.abort("switched")
    return len(others)


def abandon(host: str, port: int) -> int:
    """``host:port`` 不再是主了：连着它的都断开；返回断开了几条。"""
    there = [link for link, dialled in _dialled.items() if dialled[1:] == (host, port)]
    for link in there:
        link.abort("switched")
    return len(there)


def _elsewhere(
    dialled: tuple[RedisAddress, str, int], address: RedisAddress, host: str, port: int
) -> bool:
    return dialled[0] == address and dialled[1:] != (host, port)


def most_backoff_s(address: RedisAddress) -> float:
    """重连的退避封顶在这里：问 Sentinel、问 Cluster 便宜，新的主一定下来就要知道。"""
    alone = address.sentinels is None and not address.cluster
    return MAX_BACKOFF_S if alone else SENTINEL_BACKOFF_S


# ── 断线重连 ─────────────────────────────────────────────────────────────────

FIRST_BACKOFF_S: Final = 0.05
MAX_BACKOFF_S: Final = 3.0
SENTINEL_BACKOFF_S: Final = 1.0
#: 连上而没有在这么久之内又断，才算成功，退避从头计：只读的副本、满了的服务器让人连得上，
#: 第一条命令就被赶走。
STABLE_S: Final = 10.0

#: 我们自己要重连的，不是谁的错：立即。
OURS: Final = "reset"

# 一个进程有十来条连接，一断都断：合起来说，带着次数。
_lost: Final = RepeatedWarning("redis_connection_lost")
_back: Final = RepeatedWarning("redis_reconnected", level="INFO")


class Reconnector:
    """反复调用 ``open_once``。首次由 ``start`` 调用，失败就抛出；此后每次 ``lost`` 触发重连。

    ``open_once`` 返回即连接可用；它在连接已又断开时必须抛出，不得返回。
    """

    def __init__(
        self,
        name: str,
        open_once: Callable[[], Awaitable[None]],
        most_s: float = MAX_BACKOFF_S,
    ) -> None:
        self._name = name
        self._open_once = open_once
        self._task: asyncio.Task[None] | None = None
        self._started = False
        self._opened_at = 0.0
        #: 从第一次起就抖动：Redis 一重启，所有进程同时断线（LESSONS 1）。
        self._backoff = Backoff(FIRST_BACKOFF_S, most_s)
        self.reconnects = 0
        #: 没有连接时：最近一次为什么断、为什么连不上，一个词。
        self.cause = "unreachable"

    async def start(self) -> None:
        """第一次连接。

        :raises MeetingPushError: ``open_once`` 的错误；此时不会在后台重试
        """
        await self._open_once()
        self._opened_at = asyncio.get_running_loop().time()
        self._started = True

    def begin(self) -> None:
        """同 ``start``，不等：一直试，直到连上。"""
        self._started = True
        self.cause = OURS
        self._task = asyncio.create_task(
            self._reopen(), name=f"connect:{self._name}", context=Context()
        )

    def lost(self, cause: str) -> None:
        """连接断了；已在重连、没有启动时无害。"""
        if self._started and self._task is None:
            self.cause = cause
            _lost.say(connection=self._name, cause=cause)
            self._task = asyncio.create_task(
                self._reopen(), name=f"reconnect:{self._name}", context=Context()
            )

    async def stop(self) -> None:
        """不再重连；之后可以重新 ``start``。"""
        self._started = False
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _reopen(self) -> None:
        loop = asyncio.get_running_loop()
        if self.cause == OURS or loop.time() - self._opened_at >= STABLE_S:
            self._backoff.reset()
        else:
            await self._backoff.wait()
        while not await self._opened():
            await self._backoff.wait()
        self._opened_at = loop.time()
        self.reconnects += 1
        self._task = None
        _back.say(connection=self._name, reconnects=self.reconnects)

    async def _opened(self) -> bool:
        try:
            await self._open_once()
        except MeetingPushError as error:
            self.cause = error.cause
            logger.bind(connection=self._name, reason=error.message).debug("redis_reconnect_failed")
            return False
        except Exception as error:  # noqa: BLE001 — 重连循环一死，这个节点就永远聋了
            logger.bind(connection=self._name).opt(exception=error).error("redis_reconnect_failed")
            return False
        return True
