"""频道订阅：一条专用连接，断线自己重连并重新订阅。"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

import hiredis

from ..contracts import ChannelHandler
from ..errors import MeetingPushError, RedisUnavailableError
from ..logs import logger
from .address import RedisAddress, credentials_refused, greeting
from .dial import OURS, Reconnector, dial, most_backoff_s
from .keys import Keys
from .link import Argument, Link, pack

#: 重新订阅时一条命令里的频道数；每块等确认，Redis 不会被一条巨大的命令占住。
RESTORE_CHUNK: Final = 1_000


class Subscriber:
    """实现 ``contracts.Channels``；数据与订阅不共用连接（LESSONS 5）。

    断线期间发布的消息收不到：重新订阅完成后调用 ``on_resubscribed``，由它的主人去重读信箱
    （LESSONS 3）。引用计数是调用者的事：首台设备订阅一次，末台设备退订一次。
    """

    def __init__(
        self,
        address: RedisAddress,
        keys: Keys,
        *,
        timeout_s: float = 5.0,
        name: str = "meeting-push-subscriber",
    ) -> None:
        self._address = address
        self._keys = keys
        self._timeout_s = timeout_s
        self._name = name
        self._feed: Feed | None = None
        self._reconnector = Reconnector(name, self._open, most_backoff_s(address))
        #: 想要的频道 → 何时确认。断线时已确认的一律换成 ``_restored``。
        self._wanted: dict[bytes, asyncio.Future[None]] = {}
        self._restored: asyncio.Future[None] | None = None
        self._confirmed: asyncio.Future[None]

    @property
    def connected(self) -> bool:
        """已连上，且全部频道都已（重新）订阅。"""
        return self._feed is not None and (self._restored is None or self._restored.done())

    @property
    def cause(self) -> str:
        """没有连上时：为什么，一个词。"""
        return self._reconnector.cause

    @property
    def reconnects(self) -> int:
        return self._reconnector.reconnects

    @property
    def channel_count(self) -> int:
        return len(self._wanted)

    async def start(self, handler: ChannelHandler, on_resubscribed: Callable[[], None]) -> None:
        """连接并开始接收；``handler`` 在读到数据的那一刻被同步调用。

        :raises RedisUnavailableError: 连不上
        :raises ConfigurationError: Redis 拒绝这个用户名或密码
        """
        self._receive_by(handler, on_resubscribed)
        await self._reconnector.start()

    def begin(self, handler: ChannelHandler, on_resubscribed: Callable[[], None]) -> None:
        """同 ``start``，不等第一次连上。"""
        self._receive_by(handler, on_resubscribed)
        self._reconnector.begin()

    def _receive_by(self, handler: ChannelHandler, on_resubscribed: Callable[[], None]) -> None:
        self._handler = handler
        self._on_resubscribed = on_resubscribed
        self._confirmed = asyncio.get_running_loop().create_future()
        self._confirmed.set_result(None)

    def reset(self, _channels: Collection[str] = ()) -> None:
        """丢掉此刻的连接，重新连上并订阅全部：对方说一切都好，却什么也没送来（CON-3）。

        ``_channels``：只那几个频道的连接，没有给就是全部；一台 Redis 只有一条。立即返回；之后同一次
        断线，订完时调用 ``on_resubscribed``。正在重连时无事可做。
        """
        if self._feed is not None:
            self._feed.abort(OURS)

    async def close(self) -> None:
        """关闭；还在等确认的订阅得到 ``RedisUnavailableError``。可重复调用。"""
        await self._reconnector.stop()
        feed, self._feed = self._feed, None
        if feed is not None:
            feed.close()
        for future in self._wanted.values():
            if not future.done():
                future.set_exception(RedisUnavailableError("the subscriber was closed"))
                future.exception()  # 没人在等也不算“从未取走”
        self._wanted.clear()

    # ── 订阅 ────────────────────────────────────────────────────────────────

    async def subscribe(self, user_id: int) -> None:
        await self.subscribe_channel(self._keys.user_channel(user_id))

    def unsubscribe(self, user_id: int) -> None:
        self.unsubscribe_channel(self._keys.user_channel(user_id))

    def unsubscribe_channel(self, name: str) -> None:
        """退订一个全名已含前缀的频道；承诺同 ``unsubscribe``。"""
        channel = name.encode()
        future = self._wanted.pop(channel, None)
        if future is None:
            return
        if future is not self._restored and not future.done():
            future.set_result(None)  # 等它的人已被这次退订作废：放行，免得断线后永远悬着
        if self._feed is not None:
            self._feed.queue(UNSUBSCRIBE, channel, None)

    async def subscribe_channel(self, name: str) -> None:
        """订阅一个全名已含前缀的频道（广播、系统）；承诺同 ``subscribe``。"""
        channel = name.encode()
        future = self._subscribing(channel)
        if future is not None:
            await asyncio.shield(future)  # 几个调用者可能共用它
            self._lighten(channel, future)

    def subscribing(self, user_id: int) -> asyncio.Future[None] | None:
        return self._subscribing(self._keys.user_channel(user_id).encode())

    def subscribing_channel(self, name: str) -> asyncio.Future[None] | None:
        """一个全名已含前缀的频道；承诺同 ``subscribing``。"""
        return self._subscribing(name.encode())

    def one_each(self, name_of: Callable[[int], str]) -> list[str]:
        """``name_of`` 给的频道里，每条连接上的各一个（数从 0 起）。"""
        return [name_of(0)]

    def _subscribing(self, channel: bytes) -> asyncio.Future[None] | None:
        future = self._wanted.get(channel)
        if future is None:
            future = asyncio.get_running_loop().create_future()
            self._wanted[channel] = future
            if self._feed is not None:
                self._feed.queue(SUBSCRIBE, channel, future)
        elif future.done():
            self._lighten(channel, future)
            return None
        return future

    def _lighten(self, channel: bytes, confirmed: asyncio.Future[None]) -> None:
        """十万个频道，不各留一个 future。"""
        if self._wanted.get(channel) is confirmed and confirmed is not self._restored:
            self._wanted[channel] = self._confirmed

    # ── 连接 ────────────────────────────────────────────────────────────────

    async def _open(self) -> None:
        feed = await dial(self._address, self._new_feed, self._timeout_s)
        try:
            await self._greet(feed)
            self._feed = feed
            feed.start_heartbeat()
            await self._restore(feed)
        except BaseException:
            feed.close()
            raise
        if feed.lost:
            raise RedisUnavailableError("the connection to Redis was lost")

    def _new_feed(self) -> Feed:
        return Feed(self._handler, self._on_lost, self._timeout_s)

    async def _greet(self, feed: Feed) -> None:
        try:
            await feed.request(greeting(self._address, self._name))
        except MeetingPushError as error:
            raise credentials_refused(error) or error from None

    async def _restore(self, feed: Feed) -> None:
        wanted = list(self._wanted.items())
        for start in range(0, len(wanted), RESTORE_CHUNK):
            for channel, future in wanted[start : start + RESTORE_CHUNK]:
                if self._wanted.get(channel) is future:  # 没有在此期间退订或重新订阅
                    feed.queue(SUBSCRIBE, channel, None if future is self._restored else future)
            await feed.request([(b"PING",)])
        self._done_restoring()

    def _done_restoring(self) -> None:
        if self._restored is not None:
            if not self._restored.done():
                self._restored.set_result(None)
            self._on_resubscribed()

    def _on_lost(self, link: Link) -> None:
        if link is not self._feed:
            return
        self._feed = None
        if self._restored is None or self._restored.done():
            self._restored = asyncio.get_running_loop().create_future()
        for channel, future in self._wanted.items():
            if future.done():
                self._wanted[channel] = self._restored
        self._reconnector.lost(link.cause)


# ── 订阅连接的一生（RESP2） ──────────────────────────────────────────────────

SUBSCRIBE: Final = b"SUBSCRIBE"
UNSUBSCRIBE: Final = b"UNSUBSCRIBE"

#: 订阅确认的等待者；None 表示没人等，只占位置。
Waiter = asyncio.Future[None] | None


class Feed(Link):
    """全产品最热的循环在 ``data_received`` 里。

    除 ``message`` 外的每个回答都对应我们发出的一个词（每个频道一次确认，PING 一次 PONG），
    次序与发出的一致，所以一条先进先出的队列就能精确配对，不必按频道名查找。
    """

    #: 频道上的一条消息以它开头。
    message_kind = b"message"

    def __init__(
        self, handler: ChannelHandler, on_lost: Callable[[Link], None], timeout_s: float
    ) -> None:
        super().__init__(on_lost, timeout_s)
        self._handler = handler
        self._waiting: deque[Waiter] = deque()
        self._verbs: list[tuple[bytes, bytes]] = []
        self._heartbeat: asyncio.TimerHandle | None = None
        self._requests: set[asyncio.Future[None]] = set()
        self._error: MeetingPushError | None = None

    def expecting(self) -> bool:
        return bool(self._waiting)

    # ── 发 ──────────────────────────────────────────────────────────────────

    def request(self, commands: Sequence[Sequence[Argument]]) -> asyncio.Future[None]:
        """发出若干各有一个回答的命令；最后一个的回答到了即完成，断线则失败。"""
        done: asyncio.Future[None] = self._loop.create_future()
        self._requests.add(done)
        done.add_done_callback(self._requests.discard)
        self._send(commands, [None] * (len(commands) - 1) + [done])
        return done

    def queue(self, verb: bytes, channel: bytes, waiter: Waiter) -> None:
        """排入一个订阅或退订；同一轮里相邻的同一个动词合成一条命令。

        ``waiter`` 在确认到达时完成；断线时不动它，由 ``Subscriber`` 在重连后兑现。
        """
        self._line_up(verb, channel)
        self._expect([waiter])

    def _line_up(self, verb: bytes, channel: bytes) -> None:
        if not self._verbs:
            self._loop.call_soon(self._send_verbs)
        self._verbs.append((verb, channel))

    def start_heartbeat(self) -> None:
        """定期 PING：订阅连接平时只听不说，不问就不知道对方死了。"""
        if not self._waiting:
            self._send([(b"PING",)], [None])
        self._heartbeat = self._loop.call_later(self._tick_s, self.start_heartbeat)

    def _send(self, commands: Sequence[Sequence[Argument]], waiters: Iterable[Waiter]) -> None:
        self._send_verbs()  # 等待者已排在前面的，命令也必须先写
        self._expect(waiters)
        self.write(b"".join([pack(*args) for args in commands]))

    def _send_verbs(self) -> None:
        verbs, self._verbs = self._verbs, []
        for verb, run in groupby(verbs, key=itemgetter(0)):
            self.write(pack(verb, *[channel for _, channel in run]))

    def _expect(self, waiters: Iterable[Waiter]) -> None:
        if not self._waiting:
            self._silent = 0
        self._waiting.extend(waiters)

    # ── 收 ──────────────────────────────────────────────────────────────────

    def data_received(self, data: bytes) -> None:
        self._silent = 0
        self._reader.feed(data)
        gets, handler, kind = self._reader.gets, self._handler, self.message_kind
        while True:
            try:
                while (reply := gets()) is not False:
                    if reply.__class__ is list and reply[0] == kind:
                        handler(reply[1], reply[2])
                    else:
                        self._take(reply)
                return
            except hiredis.ProtocolError:
                self.abort("protocol_error")
                return
            except Exception as error:  # noqa: BLE001 — 一条坏消息不许带走整个节点的订阅
                logger.opt(exception=error).error("channel_handler_failed")

    def _take(self, reply: Any) -> None:
        if isinstance(reply, MeetingPushError):
            # 一个 SUBSCRIBE 只得到一个错误，配对从此错位：只能重来
            self._error = reply
            self.abort(reply.cause)
            return
        waiter = self._waiting.popleft() if self._waiting else None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # ── 断 ──────────────────────────────────────────────────────────────────

    def connection_lost(self, exc: Exception | None) -> None:
        if self._heartbeat is not None:
            self._heartbeat.cancel()
        super().connection_lost(exc)

    def fail(self, error: MeetingPushError) -> None:
        self._waiting.clear()
        self._verbs.clear()
        for request in list(self._requests):
            if not request.done():
                request.set_exception(self._error or error)
