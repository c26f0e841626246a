"""一个负载进程手里的连接：一起来、被掐断、再来、离开；以及它们收到的。"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterator
from typing import Final

from picows import WSError, WSTransport

from meeting_push.monitoring.latency import LatencyHistogram

from ..device import AckingDevice, CountingDevice, Device
from ..fleet import Link, beat, hang_up, open_device
from ..progress import OnProgress
from .orders import Join, Joined, Left, Seen
from .socketio_device import SocketIoDevice, socketio_url
from .stream_device import StreamDevice, open_stream


class Tally:
    """到达的总数（共享内存，别的进程随时可读）、延迟、被谁关了；实现 ``device.Notes``。"""

    def __init__(self, slot: memoryview) -> None:
        """:param slot: 一格 64 位计数，只由这里写"""
        self.slot = slot
        self._latency = LatencyHistogram()
        self._closes: Counter[str] = Counter()
        self._since_ns = 0

    def note(self, sent_at_ns: int, now_ns: int) -> None:
        if sent_at_ns < self._since_ns:
            return
        self.slot[0] += 1
        # 各进程的单调时钟是同一个，但读它与写它之间可差几百纳秒
        self._latency.record(max(0, now_ns - sent_at_ns) // 1000)

    def lost(self, reason: str) -> None:
        """服务器（或网络）断开了一条我们没有要断的连接。"""
        self._closes[reason] += 1

    def seen(self, sockets: int, *, afresh: bool = False) -> Seen:
        """看一眼，并从头记起。

        :param afresh: 此前发出的从此不算
        """
        if afresh:
            self._since_ns = time.monotonic_ns()
        latency, self._latency = self._latency, LatencyHistogram()
        closes, self._closes = self._closes, Counter()
        received: int = self.slot[0]
        return Seen(sockets=sockets, received=received, latency=latency, closes=dict(closes))


#: 重试之前等多久（秒），随机：同真的客户端一样，不一起再撞门。
RETRY_WAIT_S: Final = (0.2, 1.5)
_PROGRESS_EVERY: Final = 50


class _Measuring(AckingDevice):
    def __init__(self, welcomed: asyncio.Future[None], tally: Tally) -> None:
        super().__init__(welcomed, tally)
        self._tally = tally

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        super().on_ws_disconnected(transport)
        _report_loss(self, transport, self._tally)


class _Counting(CountingDevice):
    def __init__(self, welcomed: asyncio.Future[None], tally: Tally, frame_bytes: int) -> None:
        super().__init__(welcomed, tally.slot, frame_bytes)
        self._tally = tally

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        super().on_ws_disconnected(transport)
        _report_loss(self, transport, self._tally)


def _report_loss(device: Device, transport: WSTransport, tally: Tally) -> None:
    # welcome 之前断开的由连接的那一方计数
    if device.lost and device.welcomed.done() and device.welcomed.exception() is None:
        received = transport.close_handshake.recv if transport.close_handshake else None
        tally.lost(str(received.code) if received else "connection lost")


class Crowd:
    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._members: list[tuple[Link, Device]] = []
        self._beating: asyncio.Task[None] | None = None

    async def join(self, order: Join, on_progress: OnProgress) -> Joined:
        """可再次调用（``cut`` 之后就是重连）；返回时都已连上或不再试。"""
        for user_id in order.user_ids:
            order.target.token(user_id)  # 真的客户端拨号之前就有令牌：签名不算在连接里
        arrival = _Arrival(order, self._tally, self._members, on_progress)
        if (
            self._beating is None and order.heartbeat_interval_s
        ):  # 连接要好一会儿：先来的不能等到大家都来了才心跳
            self._beating = asyncio.create_task(beat(self._members, order.heartbeat_interval_s))
        places = enumerate(order.user_ids, order.first_index)
        async with asyncio.TaskGroup() as group:
            for _ in range(order.concurrency):
                group.create_task(arrival.connect_each(places))
        return Joined(
            connected=arrival.connected,
            failures=dict(arrival.failures),
            latency=arrival.latency,
        )

    def look(self, *, afresh: bool = False) -> Seen:
        sockets = sum(not device.lost for _, device in self._members)
        return self._tally.seen(sockets, afresh=afresh)

    async def cut(self) -> Left:
        return await self._end(graceful=False)

    async def leave(self) -> Left:
        return await self._end(graceful=True)

    async def _end(self, *, graceful: bool) -> Left:
        beating, self._beating = self._beating, None
        members, self._members = self._members, []
        await hang_up(members, beating, graceful=graceful)
        return Left(sockets=len(members), lost=sum(device.lost for _, device in members))


class _Arrival:
    """一次 ``Join`` 的进行。"""

    def __init__(
        self,
        order: Join,
        tally: Tally,
        members: list[tuple[Link, Device]],
        on_progress: OnProgress,
    ) -> None:
        self._order = order
        self._tally = tally
        self._members = members
        self._on_progress = on_progress
        self.connected = 0
        self.failures: Counter[str] = Counter()
        self.latency = LatencyHistogram()

    async def connect_each(self, places: Iterator[tuple[int, int]]) -> None:
        for index, user_id in places:
            await self._connect(index, user_id)

    async def _connect(self, index: int, user_id: int) -> None:
        for attempt in range(self._order.retries + 1):
            if attempt:
                await asyncio.sleep(random.uniform(*RETRY_WAIT_S))
            if await self._attempt(index, user_id):
                return

    async def _attempt(self, index: int, user_id: int) -> bool:
        device, start = self._device(index, user_id), time.monotonic_ns()
        try:
            transport = await self._open(index, user_id, device)
        except (OSError, WSError, TimeoutError) as error:
            self.failures[_reason(error)] += 1
            return False
        self.latency.record((time.monotonic_ns() - start) // 1000)
        self._members.append((transport, device))
        self.connected += 1
        if self.connected % _PROGRESS_EVERY == 0:
            self._on_progress(self.connected, len(self._order.user_ids))
        return True

    async def _open(self, index: int, user_id: int, device: Device) -> Link:
        target = self._order.target
        if isinstance(device, StreamDevice):
            return await open_stream(target, user_id, index, device)
        url = socketio_url(target) if self._order.dialect == "socketio" else None
        return await open_device(target, user_id, index, device, url)

    def _device(self, index: int, user_id: int) -> Device:
        order, tally = self._order, self._tally
        welcomed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if order.dialect == "socketio":
            return SocketIoDevice(welcomed, tally.slot, order.target.token(user_id))
        if order.dialect == "sse":
            return StreamDevice(welcomed, tally.slot, tally.lost)
        if order.measure_every and index % order.measure_every == 0:
            return _Measuring(welcomed, tally)
        return _Counting(welcomed, tally, order.frame_bytes)


def _reason(error: BaseException) -> str:
    """短，且同因同名：它是计数的键。"""
    if type(error) is ConnectionError:  # 我们自己给的：closed with 4005 …
        return str(error)
    if isinstance(error, OSError) and error.strerror and not isinstance(error, TimeoutError):
        return error.strerror
    return type(error).__name__
