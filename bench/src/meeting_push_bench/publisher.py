"""扇出的源头：把瞬时帧发布到各用户的频道，在途有上限。

上限就是“恰好饱和”：再快只会积压，测到的是服务器持续跟得上的最高速率。
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Final

from ulid import ULID

from meeting_push.errors import MeetingPushError
from meeting_push.protocol.frames import new_message
from meeting_push.redis.dial import RedisAddress
from meeting_push.redis.keys import Keys
from meeting_push.redis.lean import LeanConnection

from .failure import BenchError
from .orders import Publish, Published

#: 这么久没有一帧到达就不再等。
STALL_S: Final = 10.0
#: 等在途变少；libuv 的最小粒度。
_POLL_S: Final = 0.001


async def publish(order: Publish, received: Callable[[], int]) -> Published:
    """发完并等到全部到达（或停滞 ``STALL_S``）。

    :raises BenchError: Redis 不可用
    """
    redis = LeanConnection(RedisAddress.parse(order.target.redis_url), name="bench-publisher")
    try:
        await redis.connect()
        return await _publish(redis, order, received)
    except MeetingPushError as error:
        raise BenchError(f"publishing failed: {error.message}") from None
    finally:
        await redis.close()


async def _publish(redis: LeanConnection, order: Publish, received: Callable[[], int]) -> Published:
    keys = Keys(order.target.key_prefix)
    frame = transient_frame(order.frame_bytes)
    messages = [(keys.user_channel(user), frame) for user in order.user_ids]
    stream = Stream(messages, order.devices, order.publishes, order.window)
    return await pour(redis, stream, received)


@dataclass(frozen=True, slots=True)
class Stream:
    """``messages``（频道、内容）轮流发布，共 ``publishes`` 次；每次有 ``reach`` 条连接收到。"""

    messages: Sequence[tuple[str, bytes]]
    reach: int
    publishes: int
    window: int


async def pour(redis: LeanConnection, stream: Stream, received: Callable[[], int]) -> Published:
    """在途至多 ``window`` 帧，到一帧补一帧：服务器跟得上的最高速率。"""
    commands = cycle([("PUBLISH", *message) for message in stream.messages])
    before, start = received(), time.perf_counter()
    chunk = max(1, stream.window // stream.reach // 4)  # 小于在途上限：流水不断
    patience = _Patience()
    sent = arrived = 0
    while arrived < stream.publishes * stream.reach and patience.lasts(arrived):
        room = stream.window - (sent * stream.reach - arrived)
        count = min(chunk, room // stream.reach, stream.publishes - sent)
        if count > 0:
            await redis.execute_many([next(commands) for _ in range(count)])
            sent += count
        else:
            await asyncio.sleep(_POLL_S)
        arrived = received() - before
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


def transient_frame(size: int) -> bytes:
    """恰好 ``size`` 字节的 ``new_message``：seq 0（不落信箱），开头是热路径认得的样子。

    :raises BenchError: ``size`` 容不下必有的字段
    """
    tail = b'"message_id":"%b","title":"bench","content":"%b"}'
    message_id = str(ULID()).encode()
    padding = size - len(new_message(0, 0, tail % (message_id, b"")))
    if padding < 0:
        raise BenchError(f"a frame needs at least {size - padding} bytes")
    return new_message(0, 0, tail % (message_id, b"x" * padding))
