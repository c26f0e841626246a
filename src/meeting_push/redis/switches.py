"""听 Sentinel 说主换了（``+switch-master``）：还连着别处的当场断开，重新拨号。

没有它也会好：断了的自己重连，降为副本的会拒绝。挂着的（SIGSTOP、断网）什么也不说，要等各条连接自己
发现它沉默；有它，新的主一定下来就走。每个 Sentinel 一条订阅：说得晚的、说两遍的都无害。
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final

from ..errors import MeetingPushError
from ..logs import RepeatedWarning, logger
from ..supervision import periodically, woken
from .address import RedisAddress, host_and_port
from .dial import leave_others
from .keys import Keys
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
