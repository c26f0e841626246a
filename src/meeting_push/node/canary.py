"""金丝雀：经 Redis 发给自己，听不到就是聋了（CON-3，LESSONS 4）。

连接还在、订阅还在、PING 有回答，都不证明消息会来；只有真的收到一条才证明。Redis 断开时发不
出去，那不是聋：套接字留着，等它回来（CON-4）。Cluster 上每个主一条订阅连接，每条上放一只，都
回来才算。
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

from ..errors import MeetingPushError, UnavailableError
from ..logs import logger
from ..redis.redis_service import RedisService
from ..supervision import periodically

#: 重新订阅之后再给这么多个“聋了的时限”，仍听不到就放弃这个节点上的客户端。
PATIENCE: Final = 2


#: 还没听到过、正聋着的时候，隔这么久放一只；一次也没有订好过的，隔这么久看一看订好了没有。
IMPATIENT_S: Final = 1.0
STARTING_S: Final = 0.05


class Hearing(Enum):
    GOOD = "good"
    DEAF = "deaf"  # 正在重新订阅
    LOST = "lost"  # 重新订阅也没用：客户端已被请走


@dataclass(frozen=True, slots=True)
class Ear:
    """被试的耳朵，与听力变化时做什么；都是同步的，不得抛出。"""

    #: 连着，并且订阅齐全；没连上时听不到不算聋。
    connected: Callable[[], bool]
    #: 在哪些频道上放，每条订阅连接一个；还没有都订好则空着。
    channels: Callable[[], Sequence[str]]
    #: 这几个频道没有动静：那几条连接重新订阅全部；订完之后自有人重读信箱。
    resubscribe: Callable[[Collection[str]], None]
    #: 听到了后一条而前一条没来：漏过东西，重读信箱。
    reread: Callable[[], None]
    #: 没救了：请走客户端，不再接受。
    give_up: Callable[[], None]
    #: 又听得见了：重新接受。
    recover: Callable[[], None]


@dataclass(frozen=True, slots=True)
class CanaryStatistics:
    """``last_ms`` 是最近一只走了一个来回的毫秒；其余只增。"""

    hearing: str
    heard: int
    missed: int
    resets: int
    last_ms: float


class _Flight(NamedTuple):
    """一次放出的：何时（事件循环的秒），哪些频道上的还没有回来。"""

    sent_at: float
    out: set[str]


class Canary:
    """``hear`` 是各频道的 ``ChannelRoute``；``run`` 须由监督者一直运行。"""

    def __init__(
        self,
        redis: RedisService,
        *,
        interval_s: float,
        deaf_s: float,
        ear: Ear,
    ) -> None:
        self._redis = redis
        self._interval_s = interval_s
        self._deaf_s = deaf_s
        self._ear = ear
        #: 放出而没有都回来的。
        self._out: dict[int, _Flight] = {}
        self._number = 0
        #: 回来过一只：在此之前不算听得见。
        self._first = asyncio.Event()
        self._hearing = Hearing.GOOD
        self._deaf_since = 0.0
        self._heard = self._missed = self._resets = 0
        self._last_ms = 0.0

    async def run(self) -> None:
        """监督者运行的循环体；永不返回。"""
        await periodically(self._send, self._pause)

    async def _pause(self) -> None:
        slept_at, pause_s = _now(), self._pause_s()
        await asyncio.sleep(pause_s)
        if _now() - slept_at < pause_s + self._deaf_s / 2:
            self._listen()  # 否则是我们自己停顿过：它也许在套接字里还没读

    def _pause_s(self) -> float:
        """还没听到过、正聋着：不等平时的间隔，一好就知道。"""
        if self._too_early():
            return STARTING_S
        well = self._heard and self._hearing is Hearing.GOOD
        return self._interval_s if well else min(self._interval_s, IMPATIENT_S)

    async def check(self) -> None:
        """健康检查；第一只还没回来就等它。

        :raises UnavailableError: 聋了
        """
        if self._hearing is not Hearing.GOOD:
            why = f"the node hears nothing from Redis ({self._hearing.value})"
            raise UnavailableError(why, cause="deaf")
        await self._first.wait()

    def _too_early(self) -> bool:
        """第一次订好之前放出的回不来。"""
        return not self._number and not self._ear.connected()

    async def _send(self) -> None:
        channels = () if self._too_early() else self._ear.channels()
        if not channels:
            return
        self._number += 1
        number = self._number
        self._out[number] = _Flight(_now(), set(channels))  # 回来可能比 PUBLISH 的回答还早
        try:
            await self._redis.publish_all([(each, f"{number} {each}") for each in channels])
        except MeetingPushError:
            self._out.clear()  # Redis 不在：此前的也不能怪耳朵

    def resubscribed(self) -> None:
        """断过又订上了：期间放出的不会回来，信箱也已有人去重读。"""
        self._out.clear()

    # ── 听 ──────────────────────────────────────────────────────────────────

    def hear(self, payload: bytes) -> bool:
        first, _, channel = payload.decode(errors="replace").partition(" ")
        number = int(first) if first.isdecimal() else 0
        flight = self._out.get(number)
        if flight is None or channel not in flight.out:
            return True  # 重新订阅之前放出的，或不是我们的
        flight.out.discard(channel)
        if not flight.out:
            self._returned(number, flight.sent_at)
        if missed := [i for i, one in self._out.items() if i < number and channel in one.out]:
            self._notice_holes(missed)
        return True

    def _returned(self, number: int, sent_at: float) -> None:
        """每条连接上的都回来了。"""
        del self._out[number]
        self._heard += 1
        self._first.set()
        self._last_ms = (_now() - sent_at) * 1000
        if self._hearing is not Hearing.GOOD:
            self._recovered()

    def _notice_holes(self, missed: list[int]) -> None:
        """一条连接上次序不变，所以前面的不会再来了。"""
        for number in missed:
            del self._out[number]
        self._missed += len(missed)
        logger.bind(missed=len(missed)).warning("canary_missed")
        self._ear.reread()

    def _recovered(self) -> None:
        deaf_s = round(_now() - self._deaf_since, 3)
        logger.bind(deaf_s=deaf_s, was=self._hearing.value).info("hearing_recovered")
        self._hearing = Hearing.GOOD
        self._ear.recover()

    def _listen(self) -> None:
        now = _now()
        if not self._ear.connected():
            self._out.clear()
        if not self._out or now - min(one.sent_at for one in self._out.values()) < self._deaf_s:
            return
        if self._hearing is Hearing.GOOD:
            self._hearing, self._deaf_since = Hearing.DEAF, now
        elif self._hearing is Hearing.DEAF and now - self._deaf_since >= PATIENCE * self._deaf_s:
            self._hearing = Hearing.LOST
            self._ear.give_up()
        self._reset()

    def _reset(self) -> None:
        silent = {channel for one in self._out.values() for channel in one.out}
        self._missed += len(self._out)
        self._out.clear()
        self._resets += 1
        logger.bind(hearing=self._hearing.value, resets=self._resets).error("node_deaf")
        self._ear.resubscribe(silent)

    def statistics(self) -> CanaryStatistics:
        return CanaryStatistics(
            self._hearing.value, self._heard, self._missed, self._resets, self._last_ms
        )


def _now() -> float:
    """计时器的钟：墙上时间会跳。"""
    return asyncio.get_running_loop().time()
