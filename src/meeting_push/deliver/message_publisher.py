"""发布者：Redis Pub/Sub 的快路。

名字就是承诺：``publish_*`` 都是 *瞬时* 的——至多一次，不进信箱，没有状态，当时不在线的人收不到；
``MessageService.send_*`` 都是 *持久* 的——先落库、进信箱，再推，一定送到。

任何语言的进程不经过这里也能发布，格式与限制相同（见 ``protocol/envelope.py``）::

    redis-cli PUBLISH 'user:{42}:messages' \\
      '{"type":"new_message","message_id":"n-1","title":"hi","content":"there"}'

Cluster 上一个人的频道是分片的：``redis-cli -c SPUBLISH``（docs/redis-data.md“频道”）。
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from ulid import ULID

from ..clock import Clock, now_ms
from ..errors import InvalidInputError, RedisUnavailableError
from ..model import MessageType, Sender
from ..protocol.json_text import accepted_data
from ..redis.redis_service import RedisService
from ..supervision import Backoff

SYSTEM_SENDER: Final = Sender(0, "system")
MAX_ATTEMPTS: Final = 3
FIRST_BACKOFF_S: Final = 0.05


class Envelope(msgspec.Struct, kw_only=True, tag="new_message", tag_field="type"):
    """频道上的标准信封；就是没有 seq 的 ``new_message`` 帧，缺的字段由发布者补上。"""

    message_id: str
    message_type: MessageType = "message"
    priority: int = 0
    title: str = ""
    content: str = ""
    sender: Sender = SYSTEM_SENDER
    timestamp: int = 0
    expires_at: int | None = None
    data: Any = None


class MessagePublisher:
    """发布到用户、广播、系统频道；连接断开时退避重试（可能因此发布两次），仍不行就抛出。"""

    def __init__(self, redis: RedisService, *, max_bytes: int, clock: Clock = now_ms) -> None:
        self._redis = redis
        self._max_bytes = max_bytes
        self._clock = clock

    async def publish_to_user(self, user_id: int, message: Mapping[str, Any]) -> int:
        """发布给一个用户的全部在线设备；返回有多少个节点在听（0 = 不在线，消息已消失）。

        :raises InvalidInputError: ``message`` 不合信封格式或过大
        :raises RedisUnavailableError: 重试后仍不可用
        """
        channel = self._redis.keys.user_channel(user_id)
        return await self.publish_to_channel(channel, message)

    async def publish_broadcast(self, message: Mapping[str, Any]) -> int:
        """发布给所有在线用户；返回在听的节点数（Cluster 上只数得到一个主的）。"""
        return await self.publish_to_channel(self._redis.keys.broadcast_channel, message)

    async def publish_to_channel(self, channel: str, message: Mapping[str, Any]) -> int:
        """发布到指定频道（全名，含前缀）。"""
        return (await self.publish_batch([(channel, message)]))[0]

    async def publish_batch(self, items: Sequence[tuple[str, Mapping[str, Any]]]) -> list[int]:
        """一次往返发布多条 (频道, 消息)；返回各条的在听节点数，次序不变。

        先全部校验再发布：有一条不合格就一条都不发。
        """
        return await self._publish([(channel, self._encode(message)) for channel, message in items])

    async def publish_frame(self, user_id: int, frame: bytes) -> int:
        """发布已编码好的一帧（``read_sync``、``receipt`` 等）。"""
        return (await self._publish([(self._redis.keys.user_channel(user_id), frame)]))[0]

    def _encode(self, message: Mapping[str, Any]) -> bytes:
        complete = {
            "message_id": str(ULID()),
            "timestamp": self._clock(),
            **message,
            "type": "new_message",
        }
        try:
            encoded = msgspec.json.encode(self._envelope(complete))
        except (msgspec.ValidationError, TypeError, UnicodeEncodeError) as error:
            raise InvalidInputError(f"not a valid envelope: {error}") from None
        if len(encoded) > self._max_bytes:
            raise InvalidInputError(f"the envelope is larger than {self._max_bytes} bytes")
        return encoded

    def _envelope(self, fields: Mapping[str, Any]) -> Envelope:
        """缺的补上；``data`` 守与耐久的消息同样的规矩：收的一侧也这样看。"""
        envelope = msgspec.convert(fields, Envelope)
        if envelope.data is not None:
            envelope.data = accepted_data(envelope.data, self._max_bytes)
        return envelope

    async def _publish(self, items: Sequence[tuple[str, bytes]]) -> list[int]:
        backoff = Backoff(FIRST_BACKOFF_S)
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                return await self._redis.publish_all(items)
            except RedisUnavailableError:
                if attempt == MAX_ATTEMPTS:
                    raise
                await backoff.wait()
        raise AssertionError("unreachable: the last attempt returns or raises")
