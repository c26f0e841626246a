"""瞬时帧的源头：快路（Redis → 订阅者 → 套接字）上没有 SQL、队列与确认。

在途有上限，恰好饱和：再快只会积压，测到的是服务器持续跟得上的最高速率。
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from itertools import cycle
from typing import Final

from ulid import ULID

from meeting_push.errors import MeetingPushError
from meeting_push.protocol.envelope import new_message
from meeting_push.redis.dial import RedisAddress
from meeting_push.redis.lean import LeanConnection

from ..failure import BenchError
from ..target import Target
from .orders import Published, Saturate

#: 这么久没有一帧到达就不再等。
STALL_S: Final = 10.0
#: 等在途变少；libuv 的最小粒度。
_POLL_S: Final = 0.001
_NUMBER_DIGITS: Final = 10


async def saturate(order: Saturate, counts: Sequence[int]) -> Published:
    """发完并等到全部到达（或停滞 ``STALL_S``）；``counts`` 合起来是到达的帧数。

    :raises BenchError: Redis 不可用
    """
    async with _redis(order.target, "bench-saturate") as redis:
        return await _pour(redis, order, counts)


def stamped_frame(size: int, at_ns: int) -> bytes:
    """恰好 ``size`` 字节的 ``new_message``：seq 0（不落信箱），标题是时刻，开头是热路径认得的样子。

    :raises BenchError: ``size`` 容不下必有的字段
    """
    return frame_template(size) % (0, at_ns)


def frame_template(size: int) -> bytes:
    """填（编号，时刻）就是一帧：编号在消息 id 的末尾，时刻是标题，长度不变。

    :raises BenchError: ``size`` 容不下必有的字段
    """
    prefix = str(ULID())[:-_NUMBER_DIGITS].encode()
    head = b'"message_id":"%b%%010d","title":"%%020d","content":"' % prefix
    whole = len(new_message(0, 0, head + b'"}') % (0, 0))
    if size < whole:
        raise BenchError(f"a frame needs at least {whole} bytes")
    return new_message(0, 0, head + b"x" * (size - whole) + b'"}')


@contextlib.asynccontextmanager
async def _redis(target: Target, name: str) -> AsyncIterator[LeanConnection]:
    """:raises BenchError: Redis 不可用"""
    redis = LeanConnection(RedisAddress.parse(target.redis_url), name=name)
    try:
        await redis.connect()
        yield redis
    except BenchError:
        raise
    except MeetingPushError as error:
        raise _failed(error) from None
    finally:
        await redis.close()


def _failed(error: MeetingPushError) -> BenchError:
    return BenchError(f"publishing failed: {error.message}")


async def _pour(redis: LeanConnection, order: Saturate, counts: Sequence[int]) -> Published:
    """到一帧补一帧。"""
    messages = zip(order.channels, cycle(order.payloads), strict=False)
    commands = cycle([("PUBLISH", *message) for message in messages])
    before, start = sum(counts), time.perf_counter()
    chunk = max(1, order.window // order.reach // 4)  # 小于在途上限：流水不断
    patience = _Patience()
    sent = arrived = 0
    while arrived < order.publishes * order.reach and patience.lasts(arrived):
        room = order.window - (sent * order.reach - arrived)
        count = min(chunk, room // order.reach, order.publishes - sent)
        if count > 0:
            await redis.execute_many([next(commands) for _ in range(count)])
            sent += count
        else:
            await asyncio.sleep(_POLL_S)
        arrived = sum(counts) - before
    return Published(arrived=arrived, elapsed_s=time.perf_counter() - start)


class _Patience:
    """只要还有进展就等下去。"""

    def __init__(self) -> None:
        self._arrived = 0
        self._since = time.perf_counter()

    def lasts(self, arrived: int) -> bool:
        now = time.perf_counter()
        if arrived > self._arrived:
            self._arrived, self._since = arrived, now
        return now - self._since < STALL_S
