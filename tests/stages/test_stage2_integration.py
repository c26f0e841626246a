"""阶段 2 端到端验证：Redis Pub/Sub 分发、投递队列、送达确认、监控。

生产的样子：``api`` 一个、``gateway`` 两个、``worker`` 两个，各是一个进程；自己的 Redis（带 AOF）与
PostgreSQL（没装就 SQLite）；客户端是外人的。测试名的前缀是阶段 2 的任务号；哪一格对应哪些测试：
``docs/requirements.md``；跑完写下 ``reports/acceptance.md``。
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator

import pytest

from meeting_push import MessagePublisher
from tests.stages.stage2.goals import Goals
from tests.stages.stage2.losses import Losses
from tests.stages.stage2.monitoring import Monitoring
from tests.stages.stage2.steps import (
    QUEUE,
    WORKERS,
    add_entry,
    metric,
    post,
    state_of,
    url_of,
    wait_status,
)
from tests.support.eventually import eventually
from tests.support.house import House, house_fixture
from tests.support.people import api_of, device
from tests.support.redis_server import redis_of

GATEWAYS = ("gateway", "hasty-gateway")


WORKER = {
    "consumer_tasks": 1,
    "consumer_tasks_max": 1,
    "claim_idle_ms": 500,
    "consumer_block_ms": 100,
    "starvation_bound": 1_000_000,  # 优先队列总在前：测次序时没有例外
}

#: 第二个网关的重试很快；工人各一个消费者任务，认领很快，一次只等一小会儿。
house = house_fixture(
    {
        "api": ("api", {}),
        "gateway": ("gateway", {}),
        "hasty-gateway": ("gateway", {"retry_delays_s": "[0.2, 0.2, 0.2]"}),
        "worker-1": ("worker", WORKER),
        "worker-2": ("worker", WORKER),
    },
    shared={
        "presence_flush_ms": 10,
        "expiry_interval_s": 0.2,
        "relay_interval_s": 0.2,
        "relay_grace_s": 0.5,
    },
    engines=["own-postgres"],
)


@pytest.fixture
async def publisher(house: House) -> AsyncIterator[MessagePublisher]:
    """测试进程自己的发布者：任何后端进程都可以有一个。"""
    async with redis_of(house.redis_server) as redis:
        yield MessagePublisher(redis, max_bytes=64 * 1024)


# ── 任务组 1：Pub/Sub 分发 ───────────────────────────────────────────────────


async def test_1_1_published_to_a_user_on_every_gateway(
    house: House, publisher: MessagePublisher
) -> None:
    """任务 1.1：publish_to_user 发布给特定用户（两个网关上的设备都收到，别人收不到）。"""
    bob, eve = await house.people(2)
    async with (
        device(url_of(house, bob), bob) as phone,
        device(url_of(house, bob, "hasty-gateway"), bob) as laptop,
        device(url_of(house, eve), eve) as other,
    ):
        assert await publisher.publish_to_user(bob.user_id, {"title": "hi"}) == len(GATEWAYS)
        for one in (phone, laptop):
            assert (await one.next_message())["title"] == "hi"
        await other.round_trip()
        assert not other.has_message()


@pytest.mark.parametrize("channel", ["broadcast:all", "system:notifications"])
async def test_1_1_published_to_everybody(
    house: House, publisher: MessagePublisher, channel: str
) -> None:
    """任务 1.1：支持多种频道的消息发布（广播：publish_broadcast；系统：publish_to_channel）。"""
    bob, carol = await house.people(2)
    async with (
        device(url_of(house, bob), bob) as phone,
        device(url_of(house, carol, "hasty-gateway"), carol) as tablet,
    ):
        message = {"title": channel, "message_type": "system"}
        if channel == "broadcast:all":
            await publisher.publish_broadcast(message)
        else:
            await publisher.publish_to_channel(channel, message)
        for one in (phone, tablet):
            frame = await one.next_message()
            assert (frame["title"], frame["message_type"]) == (channel, "system")


async def test_1_1_the_envelope_is_standard_json(house: House, publisher: MessagePublisher) -> None:
    """任务 1.1：消息序列化格式标准化（类型、时间戳、消息 ID、发送者、优先级）；批量发布。"""
    [bob] = await house.people(1)
    channel = f"user:{{{bob.user_id}}}:messages"
    with house.redis.pubsub(ignore_subscribe_messages=True) as listener:
        listener.subscribe(channel)
        await eventually(lambda: dict(house.redis.pubsub_numsub(channel))[channel] == 1)
        listener.get_message(timeout=1)
        counts = await publisher.publish_batch(
            [(channel, {"title": "一", "message_type": "notification"}), (channel, {"title": "二"})]
        )
        heard = await eventually(lambda: listener.get_message(timeout=0.1))
    assert counts == [1, 1]
    envelope = json.loads(heard["data"])
    assert envelope.keys() >= {"type", "message_id", "timestamp", "sender", "priority", "content"}
    assert (envelope["type"], envelope["message_type"]) == ("new_message", "notification")
    assert envelope["sender"].keys() == {"id", "name"}
    assert abs(envelope["timestamp"] - time.time() * 1000) < 30_000


async def test_1_2_two_workers_share_the_queue(house: House) -> None:
    """任务 1.2：支持多消费者池管理（两个进程的消费者都在组里，各干了一些；结果每人恰好一份）。"""
    alice, bob, *crowd = await house.people(103)  # 收件人多的才走队列
    async with device(url_of(house, bob), bob) as phone:

        async def both_have_worked() -> bool:
            sent = await asyncio.gather(*(post(house, alice, [bob, *crowd]) for _ in range(5)))
            got = [(await phone.next_message())["message_id"] for _ in sent]
            assert sorted(got) == sorted(sent)
            await phone.ack(*got)
            taken = [await metric(house, worker, "entries_taken_total") for worker in WORKERS]
            return min(taken) > 0

        await eventually(both_have_worked, 15)
    names = {row["name"] for row in house.redis.xinfo_consumers(QUEUE, "delivery_workers")}
    assert len(names) >= len(WORKERS)


async def test_1_2_the_same_entry_twice_is_one_message(house: House) -> None:
    """任务 1.2：消息处理的幂等性（同一条目再来：信箱里仍是一条，设备不再收到；确认过也一样）。"""
    alice, bob = await house.people(2)
    mailbox = f"offline_messages:{{{bob.user_id}}}"
    async with device(url_of(house, bob), bob) as phone:
        message_id = await post(house, alice, [bob])
        first = await phone.next_message()
        entry = {
            "message_id": message_id,
            "recipient_ids": [bob.user_id],
            "priority": 0,
            "expires_at": first["expires_at"],
        }
        await process_again(house, entry)
        assert house.redis.zrange(mailbox, 0, -1, withscores=True) == [(message_id, first["seq"])]
        await phone.ack(message_id)
        await wait_status(house, alice, message_id, "delivered")
        await process_again(house, entry)
        assert not house.redis.exists(mailbox)
        await phone.round_trip()
        assert not phone.has_message()


async def process_again(house: House, entry: dict[str, object]) -> None:
    """从外面放进一个条目，等它了结。"""
    add_entry(house, json.dumps(entry))
    await eventually(lambda: house.redis.xlen(QUEUE) == 0)


async def test_1_2_what_can_not_be_processed_goes_to_the_dead_letters(house: House) -> None:
    """任务 1.2：死信队列处理失败消息（读不懂的条目带着原因进 dead_letter_queue，不挡后面的）。"""
    nonsense = "not an entry"
    add_entry(house, nonsense)

    def letters() -> list[dict[str, str]]:
        found = [fields for _, fields in house.redis.xrange("dead_letter_queue")]
        return [letter for letter in found if letter["entry"] == nonsense]

    [letter] = await eventually(letters, 10)
    assert "malformed" in letter["reason"]
    async with api_of(house["api"].base_url, await house.admin()) as api:
        listed = (await api.get("/queues/dead-letter")).json()["items"]
    assert [each["reason"] for each in listed if each["message_id"] is None] == [letter["reason"]]


# ── 任务组 2：队列与送达确认 ─────────────────────────────────────────────────


async def test_2_1_a_delayed_message_waits_for_its_time(house: House) -> None:
    """任务 2.1：支持延迟队列（到时之前在 delayed_message_queue 里，不早到）。"""
    alice, bob = await house.people(2)
    async with device(url_of(house, bob), bob) as phone:
        due_at = int(time.time() * 1000) + 1_000
        message_id = await post(house, alice, [bob], deliver_at=due_at)

        def waiting() -> bool:
            members = [str(one) for one in house.redis.zrange("delayed_message_queue", 0, -1)]
            return any(message_id in one for one in members)

        await eventually(waiting)
        assert (await phone.next_message())["message_id"] == message_id
        assert time.time() * 1000 >= due_at


async def test_2_1_a_batch_is_one_request_and_one_frame(house: House) -> None:
    """任务 2.1：批量处理优化（一个请求 100 条；同用户的多条合并成批推送，一帧至多 50 条）。"""
    alice, bob = await house.people(2)
    one = {"recipient_ids": [bob.user_id], "title": "t", "content": "c"}
    async with api_of(house["api"].base_url, alice) as api:
        answer = await api.post("/messages/batch", json={"messages": [one] * 100})
    sent = [row["message_id"] for row in answer.json()["results"]]
    await eventually(lambda: house.redis.zcard(f"offline_messages:{{{bob.user_id}}}") == 100, 10)
    async with device(url_of(house, bob), bob) as phone:
        got = [(await phone.next_message())["message_id"] for _ in sent]
        assert sorted(got) == sorted(sent)
        pushed = await metric(house, "gateway", "flushed_messages_total")
        assert pushed >= len(sent)
        await phone.ack(*got)


async def test_2_1_the_queues_are_watched(house: House) -> None:
    """任务 2.1：包含可靠性和监控功能（每条队列的长度、未确认数、最老条目的年龄）。"""
    async with api_of(house["api"].base_url, await house.admin()) as api:
        rows = (await api.get("/queues")).json()["items"]
    assert {row["name"] for row in rows} == {
        *("message_delivery_queue", "priority_message_queue", "bulk_message_queue"),
        *("delayed_message_queue", "delayed_bulk_queue", "dead_letter_queue"),
    }
    assert all(row.keys() >= {"length", "pending", "oldest_age_ms"} for row in rows)


async def test_2_2_pending_until_the_client_acknowledges(house: House) -> None:
    """任务 2.2：送达状态（pending → delivered，各有时刻）；只有客户端的 ACK 算数；Redis 里同样。"""
    alice, bob = await house.people(2)
    async with device(url_of(house, bob), bob) as phone:
        message_id = await post(house, alice, [bob])
        await phone.next_message()
        await phone.round_trip()
        assert (await state_of(house, alice, message_id))["status"] == "pending"
        await phone.ack(message_id)
        state = await wait_status(house, alice, message_id, "delivered")
    assert state["sent_at"] <= state["delivered_at"]
    cached = house.redis.hget(f"message_delivery_status:{message_id}", f"u:{bob.user_id}")
    assert str(cached).startswith("delivered:")


async def test_2_2_without_an_ack_it_is_retried_three_times_then_failed(house: House) -> None:
    """任务 2.2：重推策略（3 次，同一个 seq）；最终失败：failed、死信、失败清单、人工重新入队。"""
    alice, bob = await house.people(2)
    async with device(url_of(house, bob, "hasty-gateway"), bob) as phone:
        message_id = await post(house, alice, [bob])
        frames = [await phone.next_message(15) for _ in range(4)]
        assert [frame["attempt"] for frame in frames] == [0, 1, 2, 3]
        assert len({(frame["message_id"], frame["seq"]) for frame in frames}) == 1
        state = await wait_status(house, alice, message_id, "failed")
        assert (state["attempts"], state["failure_reason"]) == (3, "no_ack")
        letters = [fields for _, fields in house.redis.xrange("dead_letter_queue")]
        assert any(message_id in letter["entry"] for letter in letters)
        async with api_of(house["api"].base_url, await house.admin()) as api:
            failures = (await api.get("/deliveries/failures")).json()["items"]
            assert message_id in {one["message_id"] for one in failures}
            path = f"/deliveries/failures/{message_id}/{bob.user_id}/requeue"
            assert (await api.post(path)).status_code == 204
        assert (await phone.next_message())["message_id"] == message_id
        await phone.ack(message_id)
        await wait_status(house, alice, message_id, "delivered")


async def test_2_2_past_its_time_it_is_expired(house: House) -> None:
    """任务 2.2：状态类型 expired。"""
    alice, bob = await house.people(2)
    message_id = await post(house, alice, [bob], expires_in_s=1)
    await wait_status(house, alice, message_id, "expired")


async def test_2_2_delivery_statistics_of_a_user(house: House) -> None:
    """任务 2.2：监控统计（送达率、平均送达时间、重试率、失败原因；按时间、用户、消息类型）。"""
    alice, bob = await house.people(2)
    async with device(url_of(house, bob), bob) as phone:
        first = await post(house, alice, [bob])
        await phone.next_message()
        await phone.ack(first)
        await wait_status(house, alice, first, "delivered")
    await post(house, alice, [bob], message_type="notification")
    async with api_of(house["api"].base_url, bob) as api:
        found = (await api.get(f"/users/{bob.user_id}/delivery-statistics")).json()
    assert (found["sent"], found["delivered"], found["pending"], found["rate"]) == (2, 1, 1, 1.0)
    assert found["mean_ack_ms"] >= 0
    assert (found["retry_rate"], found["failure_reasons"]) == (0, {})
    assert found["by_type"].keys() == {"message", "notification"}
    assert sum(bucket["sent"] for bucket in found["by_time"]) == 2


# ── 任务组 3 ─────────────────────────────────────────────────────────────────


class TestGoals(Goals):
    """任务 3.1：性能目标。"""


class TestMonitoring(Monitoring):
    """任务 3.2：监控。"""


class TestLosses(Losses):
    """任务 1.2、2.1、3.1：不丢、可用。"""
