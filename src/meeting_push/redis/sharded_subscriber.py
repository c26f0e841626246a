"""Cluster 上的频道订阅：各人、各节点的频道只在管着它的槽的主上听得到（``SSUBSCRIBE``，决定 0019）。

每个主一条连接，各自重连。槽搬走了，主先说一声（没有问就来的 ``sunsubscribe``），再订就答 MOVED；
主死了，槽归了别的主：那些频道在新的主上重订，订完之后由主人重读信箱，同断过一次一样。
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from contextvars import Context
from itertools import count, groupby
from operator import itemgetter
from typing import Any, Final

from ..contracts import ChannelHandler
from ..errors import MeetingPushError
from .address import Node, RedisAddress
from .cluster import ClusterConnection
from .keys import Keys
from .lean import LeanConnection
from .link import Link, RedirectedError, pack
from .masters import Masters
from .slot_map import SLOTS, node_address, slot_of
from .subscriber import RESTORE_CHUNK, SUBSCRIBE, UNSUBSCRIBE, Feed, Subscriber, Waiter

#: 一条命令里的几个频道要同槽：各人的各一条。
_SHARDED_VERBS: Final = {SUBSCRIBE: b"SSUBSCRIBE", UNSUBSCRIBE: b"SUNSUBSCRIBE"}


class ShardFeed(Feed):
    """分片的频道按名字配对：没有问就来的 ``sunsubscribe`` 会插在中间。其余的照 ``Feed`` 的次序。"""

    message_kind = b"smessage"

    def __init__(
        self,
        handler: ChannelHandler,
        on_lost: Callable[[Link], None],
        timeout_s: float,
        sharded: tuple[bytes, ...],
    ) -> None:
        """:param sharded: 分片的频道以什么开头"""
        super().__init__(handler, on_lost, timeout_s)
        self._sharded = sharded
        #: 还没有回答的 SSUBSCRIBE 几个，与最后一个的等待者。
        self._asked: dict[bytes, tuple[int, Waiter]] = {}
        self._left: Counter[bytes] = Counter()
        #: 一个槽不在这里了；一个频道没有问就被退订了。
        self.on_moved: Callable[[RedirectedError], None] = lambda _: None
        self.on_gone: Callable[[bytes], None] = lambda _: None

    def expecting(self) -> bool:
        return bool(self._waiting or self._asked)

    def queue(self, verb: bytes, channel: bytes, waiter: Waiter) -> None:
        if not channel.startswith(self._sharded):
            super().queue(verb, channel, waiter)
            return
        if not self.expecting():
            self._silent = 0
        if verb == SUBSCRIBE:
            unanswered, _ = self._asked.get(channel, (0, None))
            self._asked[channel] = (unanswered + 1, waiter)
        else:
            self._left[channel] += 1
        self._line_up(_SHARDED_VERBS[verb], channel)

    def forget(self, channel: bytes) -> None:
        """它的回答来不来都不要紧了。"""
        self._asked.pop(channel, None)

    def _send_verbs(self) -> None:
        verbs, self._verbs = self._verbs, []
        for verb, run in groupby(verbs, key=itemgetter(0)):
            channels = [channel for _, channel in run]
            if verb in (SUBSCRIBE, UNSUBSCRIBE):
                self.write(pack(verb, *channels))
            else:
                self.write(b"".join([pack(verb, channel) for channel in channels]))

    def _take(self, reply: Any) -> None:
        kind = reply[0] if reply.__class__ is list else None
        if kind == b"message":  # 广播、系统、会议：不分片
            self._handler(reply[1], reply[2])
        elif kind == b"ssubscribe":
            self._confirm(reply[1])
        elif kind == b"sunsubscribe":
            self._end(reply[1])
        elif isinstance(reply, RedirectedError) and not reply.asking:
            self.on_moved(reply)
        else:
            super()._take(reply)

    def _confirm(self, channel: bytes) -> None:
        unanswered, waiter = self._asked.pop(channel, (0, None))
        if unanswered > 1:  # 订、退、再订：最后一个确认了才算
            self._asked[channel] = (unanswered - 1, waiter)
        elif waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _end(self, channel: bytes) -> None:
        unanswered = self._left.pop(channel, 0)
        if unanswered == 0:
            self.on_gone(channel)
        elif unanswered > 1:
            self._left[channel] = unanswered - 1

    def fail(self, error: MeetingPushError) -> None:
        self._asked.clear()
        super().fail(error)


class _Ear(Subscriber):
    """到一个主的。"""

    def __init__(
        self, node: Node, address: RedisAddress, keys: Keys, timeout_s: float, name: str
    ) -> None:
        super().__init__(node_address(address, node), keys, timeout_s=timeout_s, name=name)
        self.node = node
        self._sharded = tuple(kind.encode() for kind in keys.sharded)
        self._restoring: set[asyncio.Task[None]] = set()
        self.on_moved: Callable[[_Ear, RedirectedError], None] = lambda _ear, _error: None
        self.on_link_lost: Callable[[], None] = lambda: None

    @property
    def channels(self) -> Collection[bytes]:
        return self._wanted

    def _new_feed(self) -> Feed:
        feed = ShardFeed(self._handler, self._on_lost, self._timeout_s, self._sharded)
        feed.on_moved = lambda error: self.on_moved(self, error)
        feed.on_gone = self._subscribe_again
        return feed

    def _on_lost(self, link: Link) -> None:
        super()._on_lost(link)
        self.on_link_lost()

    # ── 搬 ──────────────────────────────────────────────────────────────────

    def release(self, channel: bytes) -> asyncio.Future[None]:
        """它不归这里了；返回何时确认。早已确认过的，是已有结果的。"""
        if isinstance(self._feed, ShardFeed):
            self._feed.forget(channel)
        future = self._wanted.pop(channel)
        return self._confirmed if future is self._restored else future

    @property
    def restored(self) -> asyncio.Future[None] | None:
        """何时又都订好了；没有断过、没有搬来过则 None。"""
        return self._restored

    def adopt(self, channels: Mapping[bytes, asyncio.Future[None]]) -> None:
        """从此归这里；订好之后 ``on_resubscribed``：搬的时候可能漏过发布。"""
        if self._restored is None or self._restored.done():
            self._restored = asyncio.get_running_loop().create_future()
        for channel, future in channels.items():
            self._wanted[channel] = self._restored if future.done() else future
        if self._feed is not None:
            task = asyncio.create_task(self._restore_these(self._feed, list(channels)))
            self._restoring.add(task)
            task.add_done_callback(self._restoring.discard)

    async def _restore_these(self, feed: Feed, channels: list[bytes]) -> None:
        with suppress(MeetingPushError):  # 断了：重连之后连同别的一起订
            for start in range(0, len(channels), RESTORE_CHUNK):
                self._queue_again(feed, channels[start : start + RESTORE_CHUNK])
                await feed.request([(b"PING",)])
            self._done_restoring()

    def _queue_again(self, feed: Feed, channels: list[bytes]) -> None:
        for channel in channels:
            future = self._wanted.get(channel)  # 也许已退订、已搬走
            if future is not None:
                waiter = None if future is self._restored else future
                feed.queue(SUBSCRIBE, channel, waiter)

    def _subscribe_again(self, channel: bytes) -> None:
        """没有问就被退订了：槽多半搬走了，再订一次，回答会说搬去了哪里。"""
        if channel in self._wanted:
            self.adopt({channel: self.release(channel)})

    async def close(self) -> None:
        restoring = list(self._restoring)
        for task in restoring:
            task.cancel()
        await asyncio.gather(*restoring, return_exceptions=True)
        await super().close()


class ShardedSubscriber(Subscriber):
    """同 ``Subscriber`` 的一张脸；``masters`` 要先启动，槽归谁由它说。

    不分片的频道（广播、系统、会议）也各归一个主：名字的槽在谁那里，就在谁那里订。
    """

    def __init__(
        self,
        address: RedisAddress,
        keys: Keys,
        masters: Masters,
        *,
        timeout_s: float = 5.0,
        name: str = "meeting-push-subscriber",
    ) -> None:
        super().__init__(address, keys, timeout_s=timeout_s, name=name)
        self._masters = masters
        self._placed: list[Node | None] = []
        #: 各个槽的。
        self._homes: list[_Ear | None] = [None] * SLOTS
        self._ears: dict[Node, _Ear] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._past_reconnects = 0
        self._started = False

    @property
    def connected(self) -> bool:
        return bool(self._ears) and all(ear.connected for ear in self._ears.values())

    @property
    def cause(self) -> str:
        away = [ear.cause for ear in self._ears.values() if not ear.connected]
        return away[0] if away else super().cause

    @property
    def reconnects(self) -> int:
        return self._past_reconnects + sum(ear.reconnects for ear in self._ears.values())

    @property
    def channel_count(self) -> int:
        return sum(ear.channel_count for ear in self._ears.values())

    async def start(self, handler: ChannelHandler, on_resubscribed: Callable[[], None]) -> None:
        self._handler = handler
        self._on_resubscribed = on_resubscribed
        self._settle()
        try:
            await asyncio.gather(
                *(ear.start(handler, on_resubscribed) for ear in self._ears.values())
            )
        except BaseException:
            await self.close()
            raise
        self._started = True
        self._masters.watchers.append(self._settle)
        self._settle()

    async def close(self) -> None:
        if self._started:
            self._masters.watchers.remove(self._settle)
        self._started = False
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for ear in self._ears.values():
            await ear.close()

    def reset(self, channels: Collection[str] = ()) -> None:
        ears = {self._home(name.encode()) for name in channels} or set(self._ears.values())
        for ear in ears:
            ear.reset()

    # ── 订阅 ────────────────────────────────────────────────────────────────

    def unsubscribe_channel(self, name: str) -> None:
        self._home(name.encode()).unsubscribe_channel(name)

    def one_each(self, name_of: Callable[[int], str]) -> list[str]:
        wanted, names = set(self._ears.values()), list[str]()
        for name in map(name_of, count()):
            home = self._home(name.encode())
            if home in wanted:
                wanted.discard(home)
                names.append(name)
            if not wanted:
                break
        return names

    def _subscribing(self, channel: bytes) -> asyncio.Future[None] | None:
        return self._home(channel)._subscribing(channel)

    def _lighten(self, channel: bytes, confirmed: asyncio.Future[None]) -> None:
        self._home(channel)._lighten(channel, confirmed)

    def _home(self, channel: bytes) -> _Ear:
        home = self._homes[slot_of(channel)]
        assert home is not None, "started without covered slots"
        return home

    # ── 槽归谁 ───────────────────────────────────────────────────────────────

    def _settle(self) -> None:
        """照此刻的槽图：各频道在管着它的主上订。同步。"""
        placed = self._masters.placed()
        if placed == self._placed:
            return
        before, self._placed = self._homes, placed
        for node in {node for node in placed if node is not None}:
            if node not in self._ears:
                self._ears[node] = self._new_ear(node)
        # 没有主的槽留在原处，等有人管
        self._homes = [
            before[slot] if node is None else self._ears[node] for slot, node in enumerate(placed)
        ]
        losing = {
            old for old, new in zip(before, self._homes, strict=True) if old is not new and old
        }
        self._move(losing)
        kept = set(self._homes)
        for ear in [ear for ear in self._ears.values() if ear not in kept]:
            self._part_from(ear)

    def _move(self, losing: Collection[_Ear]) -> None:
        moving: defaultdict[_Ear, dict[bytes, asyncio.Future[None]]] = defaultdict(dict)
        for ear in losing:
            for channel in list(ear.channels):
                home = self._home(channel)
                if home is not ear:
                    moving[home][channel] = ear.release(channel)
        for home, channels in moving.items():
            home.adopt(channels)
        _pass_on(losing, list(moving))

    def _new_ear(self, node: Node) -> _Ear:
        ear = _Ear(node, self._address, self._keys, self._timeout_s, self._name)
        ear.on_moved = self._follow
        ear.on_link_lost = self._masters.stale.set
        if self._started:
            ear.begin(self._handler, self._on_resubscribed)
        return ear

    def _part_from(self, ear: _Ear) -> None:
        del self._ears[ear.node]
        self._past_reconnects += ear.reconnects
        self._spawn(ear.close)

    def _follow(self, ear: _Ear, told: RedirectedError) -> None:
        """有一个槽不在 ``ear`` 那里了。"""

        async def follow() -> None:
            with suppress(MeetingPushError):
                master = await self._masters.reach((told.host or ear.node[0], told.port))
                self._masters.moved(told.slot, master)
            if self._homes[told.slot] is ear:  # 说的那一台连不上：断开重来，那时再看
                ear.reset()

        self._spawn(follow)

    def _spawn(self, work: Callable[[], Any]) -> None:
        task = asyncio.create_task(work(), name="sharded_subscriber", context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def subscriber_for(
    lean: LeanConnection,
    keys: Keys,
    *,
    timeout_s: float = 5.0,
    name: str = "meeting-push-subscriber",
) -> Subscriber:
    """到同一个地址的；在 Cluster 上照 ``lean`` 的槽图，``lean`` 要先启动。"""
    if isinstance(lean, ClusterConnection):
        return ShardedSubscriber(lean.address, keys, lean.masters, timeout_s=timeout_s, name=name)
    return Subscriber(lean.address, keys, timeout_s=timeout_s, name=name)


def _pass_on(losing: Collection[_Ear], homes: Collection[_Ear]) -> None:
    """等着 ``losing`` 重新订好的，改等它的频道搬去的各处。"""
    old = [ear.restored for ear in losing if ear.restored is not None and not ear.restored.done()]
    new = [home.restored for home in homes if home.restored is not None]

    def all_done(_: asyncio.Future[None]) -> None:
        if all(future.done() for future in new):
            for future in old:
                if not future.done():
                    future.set_result(None)

    for future in new if old else ():
        future.add_done_callback(all_done)
