"""按节拍发布瞬时帧：只走快路（Redis → 订阅者 → 套接字），没有 SQL、队列与确认。"""

from __future__ import annotations

from itertools import cycle

from ulid import ULID

from meeting_push.errors import MeetingPushError
from meeting_push.protocol.frames import new_message
from meeting_push.redis.dial import RedisAddress
from meeting_push.redis.keys import Keys
from meeting_push.redis.lean import LeanConnection

from .arrivals import Arrivals
from .failure import BenchError
from .orders import Paced, PublishPaced
from .sender import at_pace


async def publish_paced(order: PublishPaced, arrivals: Arrivals) -> Paced:
    """等到每一条都到达。

    :raises BenchError: Redis 不可用，或有的没有到达
    """
    arrivals.start()
    keys = Keys(order.target.key_prefix)
    channels = cycle([keys.user_channel(user_id) for user_id in order.user_ids])
    redis = LeanConnection(RedisAddress.parse(order.target.redis_url), name="bench-paced")
    total = int(order.rate_per_s * order.duration_s)

    async def publish(at_ns: int) -> None:
        try:
            await redis.execute("PUBLISH", next(channels), stamped_frame(at_ns))
        except MeetingPushError as error:
            raise BenchError(f"publishing failed: {error.message}") from None

    try:
        await redis.connect()
        await at_pace(order.rate_per_s, total, publish)
        await arrivals.wait(total)
    finally:
        await redis.close()
    return Paced(accepted=total, latency=arrivals.latency)


def stamped_frame(at_ns: int) -> bytes:
    """瞬时的 ``new_message``，标题是时刻；开头是热路径认得的样子。"""
    tail = b'"message_id":"%b","title":"%d","content":"x"}'
    return new_message(0, 0, tail % (str(ULID()).encode(), at_ns))
