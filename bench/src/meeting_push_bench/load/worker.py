"""负载进程里面。"""

from __future__ import annotations

from multiprocessing.connection import Connection
from typing import Any

from meeting_push.errors import MeetingPushError
from meeting_push.redis.dial import RedisAddress
from meeting_push.redis.lean import LeanConnection

from ..failure import BenchError
from ..open_files import allow_sockets
from ..order_loop import OrderLoop, run_alone
from ..orders import Published
from ..publisher import Stream, pour
from .crowd import Crowd
from .orders import (
    Cut,
    Join,
    Leave,
    Left,
    LoadAnswer,
    LoadOrder,
    Look,
    Post,
    PublishSteady,
    Saturate,
    decode_load_order,
)
from .poster import post
from .steady_publisher import publish_steady, stamped_frame
from .tally import Tally


def main(control: Connection[bytes, bytes], counts: Any) -> None:
    """spawn 的入口；``counts`` 是（共享的 ``RawArray('q', n)``，自己的格号）。"""
    array, place = counts
    run_alone(_Worker(control, memoryview(array).cast("B").cast("q"), place).run())


class _Worker:
    def __init__(self, control: Connection[bytes, bytes], counts: memoryview, place: int) -> None:
        self._loop = OrderLoop(control, decode_load_order)
        self._counts = counts
        self._crowd = Crowd(Tally(counts[place : place + 1]))

    async def run(self) -> None:
        await self._loop.run(self._obey)

    async def _obey(self, order: LoadOrder) -> LoadAnswer:
        match order:
            case Join():
                allow_sockets(len(order.user_ids))
                return await self._crowd.join(order, self._loop.on_progress)
            case Cut():
                return Left(sockets=await self._crowd.cut())
            case Leave():
                return Left(sockets=await self._crowd.leave())
            case Look():
                return self._crowd.look()
            case PublishSteady():
                return await publish_steady(order, self._loop.on_progress)
            case Saturate():
                return await _saturate(order, self._counts)
            case Post():
                return await post(order, self._loop.on_progress)


async def _saturate(order: Saturate, counts: memoryview) -> Published:
    """:raises BenchError: Redis 不可用"""
    frame = stamped_frame(order.frame_bytes)
    payloads = order.payloads or (frame,) * len(order.channels)
    messages = list(zip(order.channels, payloads, strict=True))
    stream = Stream(messages, order.reach, order.publishes, order.window)
    redis = LeanConnection(RedisAddress.parse(order.target.redis_url), name="bench-saturate")
    try:
        await redis.connect()
        return await pour(redis, stream, lambda: sum(counts))
    except MeetingPushError as error:
        raise BenchError(f"publishing failed: {error.message}") from None
    finally:
        await redis.close()
