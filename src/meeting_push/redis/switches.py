"""听 Sentinel 说主换了（``+switch-master``）：还连着别处的当场断开，重新拨号。

没有它也会好：断了的自己重连，降为副本的会拒绝。挂着的（SIGSTOP、断网）什么也不说，要等各条连接自己
发现它沉默；有它，新的主一定下来就走。每个 Sentinel 一条订阅：说得晚的、说两遍的都无害。

换了之后：最后写进信箱、已得到应答的那一条还在不在（``LastWrite``）。复制是异步的：主死了，提升的副本
可能缺最后几毫秒。缺的若都已送达，SQL 里没有 pending 的可查，记号又一秒多才走一格；而 seq 会再用
一遍，设备把新的当成应用过的。复制按次序：最后一条在，以前的就都在。
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from ..errors import MeetingPushError
from ..logs import RepeatedWarning, logger
from ..mailbox_model import Delivered, Delivery
from ..supervision import periodically, woken
from .address import RedisAddress, host_and_port
from .dial import leave_others
from .keys import Keys
from .lean import LeanConnection
from .redis_service import RedisService
from .sentinel import sentinel_addresses
from .subscriber import Subscriber

#: 没有听上的 Sentinel，隔这么久再试。
RETRY_S: Final = 5.0
_CHANNEL: Final = "+switch-master"


class SwitchWatch:
    """``run`` 由监督者一直运行；地址不是 Sentinel 的，没有它的事。"""

    def __init__(self, redis: RedisService, timeout_s: float) -> None:
        self._redis = redis
        self._timeout_s = timeout_s
        self._listening: dict[RedisAddress, Subscriber] = {}
        self._switched = asyncio.Event()
        self._deaf = RepeatedWarning("sentinel_not_heard")

    async def run(self) -> None:
        try:
            await periodically(self._step, partial(woken, self._switched, RETRY_S))
        finally:
            for subscriber in self._listening.values():
                await subscriber.close()
            self._listening.clear()

    async def _step(self) -> None:
        if self._switched.is_set():
            self._switched.clear()
            # 池里的没有名单：全都断开，下一条命令重新拨号
            await self._redis.client.connection_pool.disconnect()
        await asyncio.gather(*map(self._listen, sentinel_addresses(self._redis.address)))

    async def _listen(self, sentinel: RedisAddress) -> None:
        if sentinel in self._listening:
            return
        subscriber = Subscriber(
            sentinel, Keys(), timeout_s=self._timeout_s, name="meeting-push-sentinel"
        )
        try:
            async with asyncio.timeout(self._timeout_s):
                await subscriber.start(self._heard, lambda: None)
                await subscriber.subscribe_channel(_CHANNEL)
        except (MeetingPushError, TimeoutError) as error:
            await subscriber.close()
            cause = error.cause if isinstance(error, MeetingPushError) else "timeout"
            where = host_and_port(sentinel.host, sentinel.port)
            self._deaf.say(sentinel=where, cause=cause)
        else:
            self._listening[sentinel] = subscriber

    def _heard(self, _channel: bytes, payload: bytes) -> None:
        """``<服务> <旧主机> <旧端口> <新主机> <新端口>``。"""
        service, *_, host, port = payload.decode(errors="replace").split(" ")
        group = self._redis.address.sentinels
        if group is None or service != group.service or not port.isdigit():
            return
        dropped = leave_others(self._redis.address, host, int(port))
        master = host_and_port(host, int(port))
        logger.bind(master=master, dropped=dropped).info("redis_master_switched")
        self._switched.set()


#: 日志每 16 条裁一次（``deliver.lua``）：可能比上限短不了，只会长。
_SLACK: Final = 16


@dataclass(frozen=True, slots=True)
class Written:
    """``generation``：写的时候的代次。"""

    user_id: int
    message_id: str
    seq: int
    generation: int


class LastWrite:
    """每个进程一个；``log_max_entries``：续传日志的上限，裁掉了的不算没有。

    Cluster 上每一段槽各记一条：一个主的副本缺了，只有写给它的说得出。
    """

    def __init__(self, lean: LeanConnection, keys: Keys, log_max_entries: int) -> None:
        self._lean = lean
        self._keys = keys
        self._log_max_entries = log_max_entries
        self._connection = lean.reconnects
        #: 哪一段槽的。
        self._last: dict[int, Written] = {}
        #: 从前的连接上最后的各条，还没有查过。
        self._doubtful: dict[int, Written] = {}
        self._gone: dict[int, Written] = {}
        self._spread = bool(lean.tags)

    def note_batch(
        self, deliveries: Sequence[Delivery], rows: Sequence[Sequence[Delivered]], generation: int
    ) -> None:
        """刚得到应答的一批，不空；一台 Redis 只看最后一条。重推的、早已确认的什么也没有写。"""
        if not self._spread:
            deliveries, rows = deliveries[-1:], [rows[-1][-1:]]
        for delivery, row in zip(deliveries, rows, strict=True):
            for one in row:
                if delivery.attempt == 0 and not one.acked:
                    self.note(Written(one.user_id, delivery.message_id, one.seq, generation))

    def note(self, written: Written) -> None:
        """刚得到应答的；同一条连接上后来的盖掉先前的。"""
        self._turn()
        self._last[self._lean.stretch_of(written.user_id)] = written

    async def lost(self) -> Written | None:
        """换过连接，从前的最后一条不在了；没有换过、还在、说不准则 None。

        :raises RedisUnavailableError: 问不到；下次再问
        """
        self._turn()
        asked = list(self._doubtful.items())
        self._gone = {stretch: one for stretch, one in asked if not await self._is_there(one)}
        for stretch, _ in asked:  # 全都问到了才算问过；不在了的，说到了（``told``）才算
            if stretch not in self._gone:
                self._doubtful.pop(stretch, None)
        return list(self._gone.values())[-1] if self._gone else None

    def told(self) -> None:
        """不在了的已说了出来。"""
        for stretch, one in self._gone.items():
            if self._doubtful.get(stretch) is one:
                del self._doubtful[stretch]
        self._gone = {}

    def _turn(self) -> None:
        if self._lean.reconnects != self._connection:
            self._connection = self._lean.reconnects
            self._doubtful = self._last | self._doubtful
            self._last = {}

    async def _is_there(self, one: Written) -> bool:
        log = self._keys.message_log(one.user_id)
        score, later = await self._lean.execute_many(
            [("ZSCORE", log, one.message_id), ("ZCOUNT", log, f"({one.seq}", "+inf")], tolerant=True
        )
        if isinstance(score, Exception) or isinstance(later, Exception):
            return True  # 键被写坏了：另有人说
        if score is not None:
            return int(float(score)) == one.seq
        return int(later) > self._log_max_entries - _SLACK
