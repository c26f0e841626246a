"""订阅：确认之后不漏、并发、竞态、断线重订、对方沉默。"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from meeting_push.errors import RedisUnavailableError
from meeting_push.redis.dial import RedisAddress
from meeting_push.redis.keys import Keys
from meeting_push.redis.lean import LeanConnection
from meeting_push.redis.subscriber import Subscriber
from tests.support.eventually import eventually
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer


class Line:
    """一个订阅者、一个发布者，和收到的一切。"""

    def __init__(self, server: RedisServer, prefix: str, timeout_s: float = 5.0) -> None:
        address = RedisAddress.parse(server.url)
        self.keys = Keys(prefix)
        self.received: list[tuple[bytes, bytes]] = []
        self.resubscribed = asyncio.Event()
        self.subscriber = Subscriber(address, self.keys, timeout_s=timeout_s)
        self.publisher = LeanConnection(address)

    async def start(self, handler: Callable[[bytes, bytes], None] | None = None) -> Line:
        await self.subscriber.start(handler or self._receive, self.resubscribed.set)
        await self.publisher.connect()
        return self

    async def close(self) -> None:
        await self.subscriber.close()
        await self.publisher.close()

    async def publish(self, user_id: int, text: str) -> int:
        return int(await self.publisher.execute("PUBLISH", self.keys.user_channel(user_id), text))

    async def reached(self, count: int) -> list[bytes]:
        await eventually(lambda: len(self.received) >= count)
        return [payload for _, payload in self.received]

    def _receive(self, channel: bytes, payload: bytes) -> None:
        self.received.append((channel, payload))


@pytest.fixture
async def line(redis_server: RedisServer, key_prefix: str) -> AsyncIterator[Line]:
    started = await Line(redis_server, key_prefix).start()
    yield started
    await started.close()


@pytest.fixture
async def private_line(private_redis_server: RedisServer, key_prefix: str) -> AsyncIterator[Line]:
    started = await Line(private_redis_server, key_prefix, timeout_s=0.2).start()
    yield started
    await started.close()


async def test_what_is_published_after_subscribe_arrives(line: Line) -> None:
    await line.subscriber.subscribe(7)
    assert await line.publish(7, "hello") == 1
    await line.reached(1)
    assert line.received == [(line.keys.user_channel(7).encode(), b"hello")]


async def test_many_concurrent_subscribes_are_all_confirmed(line: Line) -> None:
    await asyncio.gather(*(line.subscriber.subscribe(user) for user in range(1, 2001)))
    counts = await asyncio.gather(*(line.publish(user, "x") for user in range(1, 2001)))
    assert counts == [1] * 2000


async def test_subscribing_twice_is_harmless(line: Line) -> None:
    await asyncio.gather(line.subscriber.subscribe(7), line.subscriber.subscribe(7))
    await line.subscriber.subscribe(7)
    await line.publish(7, "once")
    await line.subscriber.subscribe(8)
    await line.publish(8, "end")
    assert await line.reached(2) == [b"once", b"end"]


async def test_unsubscribe_ends_the_channel(line: Line) -> None:
    await line.subscriber.subscribe(7)
    line.subscriber.unsubscribe(7)
    await line.subscriber.subscribe(8)  # 它的确认排在退订之后
    assert await line.publish(7, "x") == 0


async def test_unsubscribing_what_is_not_subscribed_is_harmless(line: Line) -> None:
    line.subscriber.unsubscribe(7)
    await line.subscriber.subscribe(7)
    assert await line.publish(7, "x") == 1


async def test_subscribe_unsubscribe_subscribe_in_one_tick_ends_subscribed(line: Line) -> None:
    first = asyncio.create_task(line.subscriber.subscribe(7))
    await asyncio.sleep(0)
    line.subscriber.unsubscribe(7)
    await line.subscriber.subscribe(7)
    await first
    assert await line.publish(7, "x") == 1


async def test_subscribe_then_unsubscribe_in_one_tick_ends_unsubscribed(line: Line) -> None:
    first = asyncio.create_task(line.subscriber.subscribe(7))
    await asyncio.sleep(0)
    line.subscriber.unsubscribe(7)
    await asyncio.wait_for(first, 2)  # 被作废的等待者不会悬着
    await line.subscriber.subscribe(8)
    assert await line.publish(7, "x") == 0


async def test_a_cancelled_subscribe_does_not_disturb_another_waiter(line: Line) -> None:
    first = asyncio.create_task(line.subscriber.subscribe(7))
    second = asyncio.create_task(line.subscriber.subscribe(7))
    await asyncio.sleep(0)
    first.cancel()
    await second
    assert await line.publish(7, "x") == 1


async def test_a_named_channel_is_subscribed_by_its_full_name(line: Line) -> None:
    name = line.keys.broadcast_channel
    await line.subscriber.subscribe_channel(name)
    assert await line.publisher.execute("PUBLISH", name, "all") == 1


async def test_a_handler_that_raises_loses_only_that_message(
    redis_server: RedisServer, key_prefix: str
) -> None:
    line = Line(redis_server, key_prefix)
    seen: list[bytes] = []

    def handler(channel: bytes, payload: bytes) -> None:
        if payload == b"bad":
            raise IndexError(payload)
        seen.append(payload)

    await line.start(handler)
    await line.subscriber.subscribe(7)
    for text in ("one", "bad", "two"):
        await line.publish(7, text)
    await eventually(lambda: len(seen) == 2)
    assert seen == [b"one", b"two"]
    assert line.subscriber.reconnects == 0
    await line.close()


async def test_everything_is_subscribed_again_after_a_restart(private_line: Line) -> None:
    users = range(1, 2501)  # 多于两块
    await asyncio.gather(*(private_line.subscriber.subscribe(user) for user in users))
    await private_line.publisher.execute("CLIENT", "KILL", "TYPE", "pubsub")
    await asyncio.wait_for(private_line.resubscribed.wait(), 5)
    counts = await asyncio.gather(*(private_line.publish(user, "x") for user in users))
    assert counts == [1] * len(users)


async def test_the_first_connection_is_not_a_resubscription(line: Line) -> None:
    await line.subscriber.subscribe(7)
    assert not line.resubscribed.is_set()


async def test_subscribe_during_an_outage_waits_for_the_reconnect(
    private_redis_server: RedisServer, private_line: Line
) -> None:
    await private_line.subscriber.subscribe(7)
    private_redis_server.kill()
    await eventually(lambda: not private_line.subscriber.connected)
    new = asyncio.create_task(private_line.subscriber.subscribe(8))
    again = asyncio.create_task(private_line.subscriber.subscribe(7))
    await asyncio.sleep(0)
    assert not new.done()
    assert not again.done()
    private_redis_server.start()
    await asyncio.wait_for(asyncio.gather(new, again), 5)
    await eventually(lambda: private_line.publisher.connected)
    assert await private_line.publish(7, "x") == await private_line.publish(8, "x") == 1


async def test_unsubscribe_during_an_outage_is_remembered(
    private_redis_server: RedisServer, private_line: Line
) -> None:
    await private_line.subscriber.subscribe(7)
    await private_line.subscriber.subscribe(8)
    private_redis_server.kill()
    await eventually(lambda: not private_line.subscriber.connected)
    private_line.subscriber.unsubscribe(7)
    private_redis_server.start()
    await asyncio.wait_for(private_line.resubscribed.wait(), 5)
    await eventually(lambda: private_line.publisher.connected)
    assert await private_line.publish(7, "x") == 0
    assert await private_line.publish(8, "x") == 1


async def test_a_silent_peer_is_found_out_by_ping(
    private_redis_server: RedisServer, private_line: Line
) -> None:
    await private_line.subscriber.subscribe(7)
    private_redis_server.pause()
    await eventually(lambda: not private_line.subscriber.connected)
    private_redis_server.resume()
    await asyncio.wait_for(private_line.resubscribed.wait(), 5)
    await eventually(lambda: private_line.publisher.connected)
    assert await private_line.publish(7, "x") == 1


async def test_an_idle_subscription_stays_connected(private_line: Line) -> None:
    await private_line.subscriber.subscribe(7)
    await asyncio.sleep(1)  # 被测的就是时间：五个超时
    assert private_line.subscriber.reconnects == 0
    assert await private_line.publish(7, "x") == 1


async def test_close_releases_whoever_still_waits(
    private_redis_server: RedisServer, private_line: Line
) -> None:
    private_redis_server.kill()
    await eventually(lambda: not private_line.subscriber.connected)
    waiting = asyncio.create_task(private_line.subscriber.subscribe(9))
    await asyncio.sleep(0)
    await private_line.subscriber.close()
    with pytest.raises(RedisUnavailableError):
        await waiting


async def test_start_without_redis_is_unavailable(key_prefix: str) -> None:
    address = RedisAddress(host="127.0.0.1", port=free_port())
    subscriber = Subscriber(address, Keys(key_prefix))
    with pytest.raises(RedisUnavailableError):
        await subscriber.start(lambda channel, payload: None, lambda: None)
