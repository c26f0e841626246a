"""总线（Redis）：数据连接、订阅连接、控制命令；没有给出地址就用内嵌的。"""

from __future__ import annotations

import asyncio
import contextlib
import secrets

from loguru import logger

from ..errors import MeetingPushError, RedisUnavailableError, UnavailableError
from ..node.agreed_clock import AgreedClock
from ..node.control_channel import ControlChannel
from ..redis.dial import RedisAddress
from ..redis.embedded import EmbeddedRedis
from ..redis.keys import Keys
from ..redis.probe import check_rights
from ..redis.redis_service import NO_EVICTION, RedisService
from ..redis.subscriber import Subscriber
from ..settings import Settings
from ..storage.database import Database
from ..supervision import Asides, Supervisor


class Bus:
    """``reread``：可能漏过发布。谁发现谁置位，边缘随后给每条连接重读信箱。"""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._embedded = None if settings.redis_url else EmbeddedRedis(settings.data_dir)
        url = self._embedded.url if self._embedded else settings.redis_url
        assert url is not None
        address, keys = RedisAddress.parse(url), Keys(settings.key_prefix)
        self._timeout_s = settings.redis_timeout_s
        self.redis = RedisService(address, keys, settings.redis_timeout_s)
        self.subscriber = Subscriber(address, keys, timeout_s=settings.redis_timeout_s)
        self.control = ControlChannel(self.redis)
        self.reread = asyncio.Event()
        #: 各循环搁置坏项的地方。
        self.asides = Asides()
        #: 各房间看的钟。
        self.clock = AgreedClock(self.redis, database)

    async def start_server(self, stack: contextlib.AsyncExitStack) -> None:
        """内嵌的 ``redis-server``；用外面的则无事。"""
        if self._embedded is not None:
            await self._embedded.start()
            stack.push_async_callback(self._embedded.stop)

    async def start(self, stack: contextlib.AsyncExitStack) -> None:
        """数据连接；订阅由边缘开始，它知道收到的交给谁。

        :raises ConfigurationError: 这个 Redis 用户少了权限
        """
        address, keys = self.redis.address, self.redis.keys
        await check_rights(address, keys, secrets.token_hex(8), self._timeout_s)
        await self.redis.start()
        stack.push_async_callback(self.redis.close)
        await self._warn_of_eviction()
        with contextlib.suppress(UnavailableError):
            await self.clock.check()

    async def _warn_of_eviction(self) -> None:
        """会淘汰键的 Redis 悄悄拿走信箱；对账者找得回来，但要过很久。"""
        try:
            policy = await self.redis.eviction_policy()
        except MeetingPushError:  # 问不到（不在、不许问）另有人说
            return
        if policy != NO_EVICTION:
            logger.bind(policy=policy, wanted=NO_EVICTION).warning("redis_may_evict_mailboxes")

    def start_clock(self, supervisor: Supervisor) -> None:
        supervisor.start("clock", self.clock.run)

    async def check_subscriber(self) -> None:
        if not self.subscriber.connected:
            raise RedisUnavailableError("not subscribed", cause=self.subscriber.cause)

    async def count_online(self) -> int:
        return int(await self.redis.lean.execute("ZCARD", self.redis.keys.online_users_set))
