"""别处传来的：听不到了怎么补救，也许漏过了就重读，谁该走。边缘与服务互不认识，在这里相接。"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, MutableMapping, Sequence
from typing import Final

from ..contracts import ChannelRoute
from ..errors import MeetingPushError
from ..logs import RepeatedWarning, logger
from ..node.canary import Canary, Ear
from ..node.control_channel import Kick
from ..protocol.codes import CloseCode
from ..redis.redis_service import RedisService
from ..redis.subscriber import Subscriber
from ..settings import NodeSettings
from ..supervision import patiently, periodically
from .lines import window_s
from .manager import ConnectionManager

#: 聋了，重新订阅也没用。
DEAF: Final = "deaf"


class NodeHearing:
    """聋了先重新订阅；没用就以 4007 请走客户端，直到又听得见。

    ``reread`` 让别人去重读本节点所有用户的信箱；``routes`` 是管理者查的那张表。``run`` 须由监督者
    一直运行。
    """

    def __init__(
        self,
        redis: RedisService,
        subscriber: Subscriber,
        manager: ConnectionManager,
        settings: NodeSettings,
        routes: MutableMapping[bytes, ChannelRoute],
        reread: Callable[[], None],
    ) -> None:
        self._manager = manager
        self._subscriber = subscriber
        self._routes = routes
        self._canary = redis.keys.canary_channel(manager.node.id)
        self._channels: frozenset[str] = frozenset()
        self._window_s = settings.drain_window_s
        self._lost = asyncio.Event()
        self._leaving = False
        #: 此刻不能接待的原因。
        self._reasons: set[str] = set()
        self.canary = Canary(
            redis,
            interval_s=settings.canary_interval_s,
            deaf_s=settings.canary_deaf_s,
            ear=Ear(
                connected=lambda: subscriber.connected,
                channels=self.channels,
                resubscribe=subscriber.reset,
                reread=reread,
                give_up=lambda: self.give_up(DEAF),
                recover=lambda: self.recover(DEAF),
            ),
        )

    def channels(self) -> Sequence[str]:
        """金丝雀的，每条订阅连接一个；有一个还没有订好则空着。"""
        name = self._canary
        names = self._subscriber.one_each(lambda number: f"{name}:{number}" if number else name)
        for gone in self._channels.difference(names):  # 换了主、搬了槽，别的名字在那里
            self._subscriber.unsubscribe_channel(gone)
            del self._routes[gone.encode()]
        self._channels = frozenset(names)
        self._routes.update((name.encode(), self.canary.hear) for name in names)
        opening = [self._subscriber.subscribing_channel(name) for name in names]
        return names if opening == [None] * len(names) else ()

    def leave(self) -> None:
        """关机开始：门由关机的人把着，这里不再开关。"""
        self._leaving = True

    def give_up(self, why: str) -> None:
        """以 4007 请走客户端，不再接受；``why`` 好了要 ``recover``。"""
        self._reasons.add(why)
        if not self._leaving:
            self._manager.refuse(CloseCode.NODE_UNHEALTHY)
            self._lost.set()

    def recover(self, why: str) -> None:
        """``why`` 好了；没有别的原因就重新接受。"""
        self._reasons.discard(why)
        if self._reasons:
            return
        self._lost.clear()
        if not self._leaving:
            self._manager.refuse(None)

    async def run(self) -> None:
        """监督者运行的循环体；永不返回。"""
        await periodically(self._evacuate, self._lost.wait)

    async def _evacuate(self) -> None:
        if self._lost.is_set():
            self._lost.clear()
            sockets = self._manager.statistics().sockets
            await self._manager.evacuate(
                CloseCode.NODE_UNHEALTHY, window_s(sockets, self._window_s)
            )


#: 代次换了没有，隔这么久问一次。
SETTLED_POLL_S: Final = 0.5
#: 等对账者换代次至多这么久：SQL 也不在，就先读再说，代价是多一帧 ``resync``。
SETTLE_PATIENCE_S: Final = 15.0


class Rereading:
    """``wanted`` 一置位就重读：先广播的日志。``settled``：见 ``Reconciler.settled``。"""

    def __init__(
        self,
        wanted: asyncio.Event,
        manager: ConnectionManager,
        refresh_broadcasts: Callable[[], Awaitable[None]],
        settled: Callable[[], Awaitable[bool]],
    ) -> None:
        self._wanted = wanted
        self._manager = manager
        self._refresh = refresh_broadcasts
        self._settled = settled
        self._log_not_read = RepeatedWarning("broadcast_log_not_read")

    async def run(self) -> None:
        """监督者运行的循环体；永不返回。"""
        await periodically(self._reread, self._wanted.wait, self._log_not_read)

    async def _reread(self) -> None:
        if not self._wanted.is_set():
            return
        self._wanted.clear()
        try:
            await self._wait_settled()
            await self._refresh_broadcasts()
            await self._manager.reread_all()
        except Exception:
            self._wanted.set()  # 还会再来：没轮到的连接不能就此不补
            raise

    async def _wait_settled(self) -> None:
        """Redis 丢了数据，等换了代次再读：每台设备一帧 ``resync``，不是先后两帧（E12）。"""
        try:
            async with asyncio.timeout(SETTLE_PATIENCE_S):
                while not await patiently(self._settled):  # noqa: ASYNC110 — 在 Redis 里，没有事件
                    await asyncio.sleep(SETTLED_POLL_S)
        except (TimeoutError, MeetingPushError) as error:
            logger.bind(error=type(error).__name__).warning("reread_before_generation")

    async def _refresh_broadcasts(self) -> None:
        """日志坏了，信箱照样重读。"""
        try:
            await self._refresh()
        except MeetingPushError as error:
            if error.temporary:
                raise
            self._log_not_read.say(code=error.code, cause=error.cause)


class Dismissals:
    """别处说该走的：被踢掉的，座位让给了别人的。"""

    def __init__(self, manager: ConnectionManager) -> None:
        self._manager = manager
        self._also_replaced: list[Callable[[Collection[str]], None]] = []

    def kick(self, command: Kick) -> None:
        self._disconnect(command.user_id, (command.connection_id,), CloseCode.KICKED)

    def replace(self, user_id: int, connection_ids: Collection[str]) -> None:
        self._disconnect(user_id, connection_ids, CloseCode.REPLACED)
        for replaced in self._also_replaced:
            replaced(connection_ids)

    def also_replaced(self, replaced: Callable[[Collection[str]], None]) -> None:
        """座位也分给了别的连接（会议）：被顶掉的由 ``replaced`` 关闭。"""
        self._also_replaced.append(replaced)

    def _disconnect(self, user_id: int, connection_ids: Collection[str], code: CloseCode) -> None:
        for connection in self._manager.get_user_connections(user_id):
            if connection.connection_id in connection_ids:
                self._manager.disconnect_user(user_id, connection, code)
