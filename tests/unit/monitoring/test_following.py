"""真的节点上的一条消息：它的结局、推送、确认都数得到，按种类。"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Unpack

import pytest

from meeting_push.model import DraftOptions, Sender
from meeting_push.monitoring.metrics import Metrics
from meeting_push.monitoring.surroundings import Counts, SharedFigures
from tests.support.eventually import eventually
from tests.support.people import device
from tests.support.redis_server import RedisServer
from tests.support.running_node import Node, running_node

ALICE = 7


def total(metrics: Metrics, name: str, **labels: str) -> float:
    """标签合得上的之和。"""
    return sum(
        sample.value
        for sample in metrics.samples()
        if sample.name == name and labels.items() <= sample.labels.items()
    )


@pytest.fixture
async def node(tmp_path: Path, redis_server: RedisServer, key_prefix: str) -> AsyncIterator[Node]:
    async with running_node(tmp_path, redis_server.url, key_prefix) as running:
        yield running


async def acknowledged(node: Node, **options: Unpack[DraftOptions]) -> None:
    async with device(node.ws_url(ALICE), node.person(ALICE)) as phone:
        await node.push.messages.send_message(Sender(1, "a"), ALICE, "t", "c", **options)
        await phone.ack((await phone.next_message())["message_id"])
        await eventually(lambda: total(node.push.metrics, "recipients_ended") == 1)


async def test_a_message_is_counted_at_each_station_by_its_kind(node: Node) -> None:
    kind = {"message_type": "notification", "priority": "7"}
    await acknowledged(node, message_type="notification", priority=7)
    metrics = node.push.metrics
    for name in (
        *("messages_accepted", "recipients_accepted"),
        *("recipients_delivered", "recipients_acked"),
    ):
        assert total(metrics, name, **kind) == total(metrics, name) == 1, name
    assert total(metrics, "recipients_ended", outcome="delivered") == 1


async def test_a_push_to_a_connected_device_is_acknowledged_in_time(node: Node) -> None:
    await acknowledged(node)
    metrics = node.push.metrics
    assert total(metrics, "live_pushes") == total(metrics, "live_acks_in_time") == 1
    assert total(metrics, "due_pushes") == total(metrics, "due_pushes_in_time") == 1


async def test_what_waits_for_an_ack_has_an_age(node: Node) -> None:
    async with device(node.ws_url(ALICE), node.person(ALICE)) as phone:
        await node.send(ALICE)
        message = await phone.next_message()
        waiting = await node.push.manager.unacked()
        assert waiting.messages == 1
        later = await node.push.manager.unacked()
        assert later.oldest_s >= waiting.oldest_s >= 0
        await phone.ack(message["message_id"])
        await eventually(lambda: total(node.push.metrics, "acks") == 1)
        assert await node.push.manager.unacked() == (0, 0)


async def test_a_failure_has_its_reason(node: Node) -> None:
    accepted = await node.send(ALICE)
    await eventually(lambda: total(node.push.metrics, "recipients_delivered") == 1)
    assert await node.push._rooms.outcomes.failures.clear(ALICE) == 1
    metrics = node.push.metrics
    assert total(metrics, "delivery_failures", reason="cleared") == 1, accepted
    assert total(metrics, "recipients_ended", outcome="failed") == 1


async def test_the_surroundings_are_told_and_forgotten_without_redis(
    tmp_path: Path, private_redis_server: RedisServer, key_prefix: str
) -> None:
    async with running_node(tmp_path, private_redis_server.url, key_prefix) as node:
        metrics, around = node.push.metrics, node.push._observation.surroundings
        await around.look()
        asked = {
            "redis_memory_used_bytes",
            "queue_length",
            "dead_letters",
            "online_users",
            "active_users",
        }
        assert asked <= {sample.name for sample in metrics.samples()}
        private_redis_server.kill()
        await around.look()
        assert not asked & {sample.name for sample in metrics.samples()}
        for _ in range(2):  # 第一遍可能是此前就开始的
            await node.push.health.check_now()
        assert total(metrics, "redis_up") == 0
        assert total(metrics, "part_failing", part="redis") == 1
        assert total(metrics, "database_up") == 1
        private_redis_server.start()


async def test_whose_turn_it_is_not_forgets_what_is_shared(node: Node) -> None:
    rooms, turn = node.push._rooms, [True]
    counts = Counts(
        rooms.outcomes.dead_letters.count,
        rooms.bus.count_online,
        node.push._observation.activity.active,
    )
    shared = SharedFigures(rooms.bus.redis, rooms.messages.queue, counts, lambda: turn[0])
    await shared.look()
    told = {sample.name for sample in shared.samples()}
    assert {"redis_memory_used_bytes", "queue_length", "online_users", "active_users"} <= told
    turn[0] = False
    await shared.look()
    assert list(shared.samples()) == []
    turn[0] = True
    await shared.look()
    assert {sample.name for sample in shared.samples()} == told


async def test_the_partitions_of_a_queue_are_one_queue_to_the_rules(
    tmp_path: Path, redis_server: RedisServer, key_prefix: str
) -> None:
    async with running_node(
        tmp_path, redis_server.url, key_prefix, queue_partitions=3
    ) as partitioned:
        around = partitioned.push._observation.surroundings
        await around.look()
        told = [one.labels["queue"] for one in around.samples() if one.name == "queue_length"]
    assert sorted(told) == sorted(set(told))
    assert {"priority_message_queue", "message_delivery_queue", "bulk_message_queue"} <= set(told)
