"""开环的发布者：按节拍把瞬时帧发布给随机的用户，服务器慢了也不等它。

每一条带着自己*预定*的发送时刻，发布者醒晚了的那一点也算进它的延迟（没有 coordinated omission）。
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from typing import Final, Self

from meeting_push.errors import MeetingPushError
from meeting_push.redis.dial import RedisAddress, dial, greeting
from meeting_push.redis.link import Link, pack

from ..failure import BenchError
from ..progress import OnProgress
from .orders import PublishSteady, Steady
from .publisher import frame_template

_TIMEOUT_S = 10.0


class PublishPipe(Link):
    """只会 PUBLISH 的 Redis 连接：预先打包，回答只数，每条不到 1 µs，发布者才不会先到顶。

    ``put`` 之后回答陆续到来；``answered`` 追上 ``put`` 的总数就是都执行了。
    """

    def __init__(self, on_lost: Callable[[Link], None], timeout_s: float) -> None:
        super().__init__(on_lost, timeout_s)
        self._asked = 0
        self.answered = 0
        self.unheard = 0
        self.failed: MeetingPushError | None = None

    @classmethod
    async def open(cls, url: str, name: str) -> Self:
        """:raises BenchError: 连不上"""
        address = RedisAddress.parse(url)
        try:
            pipe = await dial(address, lambda: cls(_ignore, _TIMEOUT_S), _TIMEOUT_S)
        except MeetingPushError as error:
            raise BenchError(f"publishing failed: {error.message}") from None
        hello = greeting(address, name)
        pipe.put(b"".join(pack(*command) for command in hello), len(hello))
        await pipe.drained()
        pipe.answered = pipe._asked = pipe.unheard = 0
        return pipe

    def put(self, packed: bytes, commands: int) -> None:
        self._asked += commands
        self.write(packed)

    async def drained(self) -> None:
        """等到全部有了回答。

        :raises BenchError: 断线，或 Redis 拒绝了哪一条
        """
        while self.answered < self._asked and self.failed is None:  # noqa: ASYNC110 — 热路只数，不叫醒
            await asyncio.sleep(0.001)
        self.check()

    def check(self) -> None:
        """:raises BenchError: 断线，或 Redis 拒绝了哪一条"""
        if self.failed is not None:
            raise BenchError(f"publishing failed: {self.failed.message}")

    # ── Link ────────────────────────────────────────────────────────────────

    def expecting(self) -> bool:
        return self.answered < self._asked

    def data_received(self, data: bytes) -> None:
        self._silent = 0
        self._reader.feed(data)
        gets = self._reader.gets
        while (reply := gets()) is not False:
            self.answered += 1
            if isinstance(reply, MeetingPushError):
                self.failed = reply
            elif reply == 0:
                self.unheard += 1

    def fail(self, error: MeetingPushError) -> None:
        self.failed = self.failed or error


def _ignore(link: Link) -> None:
    """断线由 ``fail`` 记下。"""


#: 落后时一轮至多补这么多，免得一次写几十兆。
MAX_BURST: Final = 5_000
_TICK_S: Final = 0.001
_PROGRESS_NS: Final = 250_000_000


async def publish_steady(order: PublishSteady, on_progress: OnProgress) -> Steady:
    """发完并等到 Redis 都回答了。

    :raises BenchError: Redis 不可用
    """
    pipe = await PublishPipe.open(order.target.redis_url, "bench-steady")
    try:
        frames = _Frames(order.channels, order.frame_bytes)
        total = max(1, int(order.rate_per_s * order.duration_s))
        late_ns = await keep_pace(order.rate_per_s, total, _sender(pipe, frames), on_progress)
        await pipe.drained()
    finally:
        pipe.close()
    return Steady(sent=total, unheard=pipe.unheard, late_ms=late_ns / 1e6)


def _sender(pipe: PublishPipe, frames: _Frames) -> Callable[[Sequence[int]], None]:
    def send(stamps: Sequence[int]) -> None:
        pipe.check()
        pipe.put(frames.packed(stamps), len(stamps))

    return send


async def keep_pace(
    rate_per_s: float,
    total: int,
    send: Callable[[Sequence[int]], None],
    on_progress: OnProgress,
) -> int:
    """到点的一批一批交给 ``send``（各自预定的时刻，纳秒）；返回最晚的一条晚了多少纳秒。"""
    start = shown = time.monotonic_ns()
    gap_ns, sent, late = 1e9 / rate_per_s, 0, 0
    while sent < total:
        now = time.monotonic_ns()
        due = min(total, int((now - start) / gap_ns) + 1, sent + MAX_BURST)
        if due > sent:
            stamps = [start + int(index * gap_ns) for index in range(sent, due)]
            late = max(late, now - stamps[0])
            send(stamps)
            sent = due
        if now - shown > _PROGRESS_NS:
            shown = now
            on_progress(sent, total)
        next_ns = start + int(sent * gap_ns) - time.monotonic_ns()
        await asyncio.sleep(max(_TICK_S if next_ns > 0 else 0, next_ns / 1e9))
    on_progress(total, total)
    return late


class _Frames:
    """打包好的 ``PUBLISH``：每条只填时刻与编号，长度不变。"""

    def __init__(self, channels: Sequence[str], frame_bytes: int) -> None:
        self._number = 0
        frame = frame_template(frame_bytes)
        heads = [_command(channel, frame_bytes) for channel in channels]
        # 一次格式化一条：频道的前缀连着帧的模板
        self._templates = [head.replace(b"%", b"%%") + frame + b"\r\n" for head in heads]

    def packed(self, stamps: Sequence[int]) -> bytes:
        number, self._number = self._number, self._number + len(stamps)
        chosen = random.choices(self._templates, k=len(stamps))
        return b"".join(
            [
                template % (number + place, stamp)
                for place, (template, stamp) in enumerate(zip(chosen, stamps, strict=True))
            ]
        )


def _command(channel: str, frame_bytes: int) -> bytes:
    name = channel.encode()
    return b"*3\r\n$7\r\nPUBLISH\r\n$%d\r\n%b\r\n$%d\r\n" % (len(name), name, frame_bytes)
