"""归来的人：拨号，收下信箱里的一切，逐帧确认；记下何时齐了。他们在自己的进程里。"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterable
from typing import Any, Final

from picows import WSError, WSTransport

from meeting_push.monitoring.latency import LatencyHistogram

from ..device import Device, acknowledge, messages_in
from ..failure import BenchError
from ..fleet import beat, hang_up, open_device
from ..load.orders import Leave, Left
from ..load_process import Control, Wire, work
from ..open_files import allow_sockets
from ..progress import OnProgress
from ..target import Target

#: 没有一条新的到达这么久，就是不会来了。
_GRACE_S: Final = 30.0
_POLL_S: Final = 0.1
#: 被请走之后等至多这么久再拨，一次比一次久；每个人至多拨这么多次。
_BACKOFFS_S: Final = (1.0, 2.0, 4.0, 8.0, 8.0, 8.0)


class Return(Wire, frozen=True, kw_only=True):
    """这些人同时拨号，各等 ``expected`` 条；都齐了才回答 ``Returned``，连接留着。"""

    target: Target
    user_ids: list[int]
    expected: int
    heartbeat_interval_s: float


class Returned(Wire, frozen=True, kw_only=True):
    """``whole``：一个人从拨号到最后一条，微秒；``frames``：装着它们的 WebSocket 帧数。

    ``refused``：拨了没有进来、退避后再拨的次数；``repeated``：同一条来了两次；``disordered``：seq
    没有递增（这里都是同一优先级）。
    """

    elapsed_s: float
    messages: int
    frames: int
    bytes: int
    refused: int
    repeated: int
    disordered: int
    whole: LatencyHistogram
    welcome: LatencyHistogram


class ReturningDevice(Device):
    """``finished_at``：齐了的时刻（单调时钟，秒）。"""

    def __init__(self, welcomed: asyncio.Future[None], expected: int) -> None:
        super().__init__(welcomed)
        self.finished_at: float | None = None
        self.frames = self.bytes = self.messages = self.disordered = 0
        self._expected = expected
        self._seen: set[str] = set()
        self._last_seq = 0

    @property
    def repeated(self) -> int:
        return self.messages - len(self._seen)

    def on_messages(self, transport: WSTransport, payload: bytes) -> None:
        messages = messages_in(payload)
        self.frames += 1
        self.bytes += len(payload)
        self.messages += len(messages)
        for message in messages:
            self._seen.add(message.message_id)
            self.disordered += message.seq <= self._last_seq
            self._last_seq = max(self._last_seq, message.seq)
        if self.finished_at is None and len(self._seen) >= self._expected:
            self.finished_at = time.monotonic()
        acknowledge(transport, messages)


class _Tally:
    """一次归来的账；时刻都从开始拨号算起。"""

    def __init__(self) -> None:
        self.start = time.monotonic()
        self.refused = 0
        self.welcome = LatencyHistogram()

    def welcomed(self) -> None:
        self.welcome.record(int((time.monotonic() - self.start) * 1e6))

    def since_start(self, ends: Iterable[float]) -> LatencyHistogram:
        latency = LatencyHistogram()
        for end in ends:
            latency.record(int((end - self.start) * 1e6))
        return latency


class Returners:
    """一个负载进程手里的全部归来者。"""

    def __init__(self) -> None:
        self._devices: list[tuple[WSTransport, Device]] = []
        self._beating: asyncio.Task[None] | None = None

    async def welcome_back(self, order: Return, on_progress: OnProgress) -> Returned:
        """:raises BenchError: 有一个没连上，或没有等齐"""
        tally = _Tally()
        self._beating = asyncio.create_task(beat(self._devices, order.heartbeat_interval_s))
        devices: list[ReturningDevice] = []
        waiting = asyncio.create_task(_until_all(devices, order, on_progress))
        try:
            async with asyncio.TaskGroup() as group:
                for index in range(len(order.user_ids)):
                    group.create_task(self._dial(order, index, devices, tally))
            await waiting
        except* (OSError, WSError, TimeoutError) as failures:
            raise BenchError(f"could not return: {failures.exceptions[0]!r}") from None
        finally:
            waiting.cancel()
        ends = [device.finished_at for device in devices if device.finished_at is not None]
        return Returned(
            elapsed_s=max(ends) - tally.start,
            refused=tally.refused,
            messages=sum(device.messages - device.repeated for device in devices),
            frames=sum(device.frames for device in devices),
            bytes=sum(device.bytes for device in devices),
            repeated=sum(device.repeated for device in devices),
            disordered=sum(device.disordered for device in devices),
            whole=tally.since_start(ends),
            welcome=tally.welcome,
        )

    async def _dial(
        self, order: Return, index: int, devices: list[ReturningDevice], tally: _Tally
    ) -> None:
        """照契约：被请走（4000–4499）的退避后再拨，从第一次起满抖动。"""
        for patience_s in _BACKOFFS_S:
            welcomed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            device = ReturningDevice(welcomed, order.expected)
            try:
                transport = await open_device(order.target, order.user_ids[index], index, device)
            except ConnectionError:
                tally.refused += 1
                await asyncio.sleep(random.uniform(0, patience_s))
                continue
            tally.welcomed()
            devices.append(device)
            self._devices.append((transport, device))
            return
        raise BenchError(f"user {order.user_ids[index]} was never let in")

    async def go_away(self) -> Left:
        beating, self._beating = self._beating, None
        devices, self._devices = self._devices, []
        await hang_up(devices, beating)
        return Left(sockets=len(devices), lost=sum(device.lost for _, device in devices))


async def _until_all(
    devices: list[ReturningDevice], order: Return, on_progress: OnProgress
) -> None:
    """:raises BenchError: 没有进展"""
    total, best, since = len(order.user_ids) * order.expected, -1, time.monotonic()
    while True:
        await asyncio.sleep(_POLL_S)
        finished = sum(device.finished_at is not None for device in devices)
        if finished == len(order.user_ids):
            return
        arrived = sum(device.messages for device in devices)
        on_progress(arrived, total)
        if arrived > best:
            best, since = arrived, time.monotonic()
        elif time.monotonic() - since > _GRACE_S:
            raise BenchError(f"{total - arrived:,} of {total:,} messages did not come")


def main(control: Control, _counts: Any) -> None:
    """spawn 的入口；没有共享的计数。"""
    returners = Returners()

    async def obey(order: Return | Leave, on_progress: OnProgress) -> Wire:
        if isinstance(order, Return):
            allow_sockets(len(order.user_ids))
            return await returners.welcome_back(order, on_progress)
        return await returners.go_away()

    work(control, Return | Leave, obey)
