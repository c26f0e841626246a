"""瞬时发布：信封完整、知道有没有人在听、断线重试。"""

from __future__ import annotations

import asyncio
import json

import pytest

from meeting_push.deliver.message_publisher import MessagePublisher
from meeting_push.errors import InvalidInputError, RedisUnavailableError
from meeting_push.protocol.envelope import frame_key
from meeting_push.redis.redis_service import RedisService
from meeting_push.redis.sharded_subscriber import subscriber_for
from tests.support.redis_server import RedisServer, redis_of


@pytest.fixture
def publisher(redis: RedisService) -> MessagePublisher:
    return MessagePublisher(redis, max_bytes=1_000)


async def test_nobody_listening_is_told(publisher: MessagePublisher) -> None:
    assert await publisher.publish_to_user(1, {"title": "t", "content": "c"}) == 0
    assert await publisher.publish_broadcast({"title": "t", "content": "c"}) == 0


async def test_the_envelope_is_complete(redis: RedisService, publisher: MessagePublisher) -> None:
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    listener = subscriber_for(redis.lean, redis.keys)
    await listener.start(lambda _, payload: heard.put_nowait(payload), lambda: None)
    await listener.subscribe(1)
    assert await publisher.publish_to_user(1, {"title": "t", "content": "c", "priority": 7}) == 1
    published = await heard.get()
    await listener.close()
    envelope = json.loads(published)
    assert {"type", "message_id", "timestamp", "sender", "priority"} <= envelope.keys()
    assert frame_key(published) is None  # 合格，且不占 seq


async def test_a_batch_with_one_bad_message_publishes_nothing(
    redis: RedisService, publisher: MessagePublisher
) -> None:
    channel = redis.keys.broadcast_channel
    with pytest.raises(InvalidInputError):
        await publisher.publish_batch([(channel, {"title": "t"}), (channel, {"title": 5})])


async def test_an_oversized_message_is_refused(publisher: MessagePublisher) -> None:
    with pytest.raises(InvalidInputError):
        await publisher.publish_to_user(1, {"content": "x" * 1_000})


async def test_a_publication_survives_a_short_outage(
    redis: RedisService, publisher: MessagePublisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """第一次在断线上失败，退避之后在新的连接上成功。"""
    monkeypatch.setattr("meeting_push.deliver.message_publisher.MAX_ATTEMPTS", 20)
    carrier = redis.lean.at(redis.keys.user_channel(1))
    own_id = await carrier.execute("CLIENT", "ID")
    other = await redis.open_lean("other", redis.keys.user_channel(1))
    await other.execute("CLIENT", "KILL", "ID", own_id)
    await other.close()
    assert await publisher.publish_to_user(1, {"title": "t", "content": "c"}) == 0
    assert redis.lean.reconnects == 1


async def test_a_long_outage_is_told(
    private_redis_server: RedisServer,
) -> None:
    async with redis_of(private_redis_server) as redis:
        private_redis_server.kill()
        publisher = MessagePublisher(redis, max_bytes=1_000)
        with pytest.raises(RedisUnavailableError):
            await publisher.publish_to_user(1, {"title": "t", "content": "c"})
