"""瞬时发布：信封完整、知道有没有人在听、断线重试。"""

from __future__ import annotations

import json
from typing import Any

import pytest

from meeting_push.deliver.message_publisher import MessagePublisher
from meeting_push.errors import InvalidInputError, RedisUnavailableError
from meeting_push.protocol.envelope import frame_key
from meeting_push.redis.redis_service import RedisService
from tests.support.redis_server import RedisServer, redis_of


@pytest.fixture
def publisher(redis: RedisService) -> MessagePublisher:
    return MessagePublisher(redis, max_bytes=1_000)


async def test_nobody_listening_is_told(publisher: MessagePublisher) -> None:
    assert await publisher.publish_to_user(1, {"title": "t", "content": "c"}) == 0
    assert await publisher.publish_broadcast({"title": "t", "content": "c"}) == 0


async def test_the_envelope_is_complete(redis: RedisService, publisher: MessagePublisher) -> None:
    listener = redis.client.pubsub()
    await listener.subscribe(redis.keys.user_channel(1))
    await listener.get_message(timeout=1)
    assert await publisher.publish_to_user(1, {"title": "t", "content": "c", "priority": 7}) == 1
    published: dict[str, Any] | None = await listener.get_message(timeout=1)
    assert published is not None
    await listener.aclose()  # type: ignore[no-untyped-call]
    envelope = json.loads(published["data"])
    assert {"type", "message_id", "timestamp", "sender", "priority"} <= envelope.keys()
    assert frame_key(published["data"]) is None  # 合格，且不占 seq


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
    own_id = await redis.lean.execute("CLIENT", "ID")
    await redis.client.client_kill_filter(_id=own_id)
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
