"""统计：问任何一个进程都看得见全体；延迟、速率、清理都有数。"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from meeting_push.app import create_app
from meeting_push.auth.access_tokens import AccessTokens
from tests.support.eventually import eventually
from tests.support.people import device
from tests.support.redis_server import RedisServer
from tests.support.running_node import Node, running_node
from tests.support.server_process import TEST_JWT_SECRET

QUICK = {"stats_interval_s": 0.05}


@contextlib.asynccontextmanager
async def api_of(node: Node, role: str) -> AsyncIterator[httpx.AsyncClient]:
    token = AccessTokens(node.push.settings.auth, TEST_JWT_SECRET).issue(1, role, "ops", 600)
    transport = httpx.ASGITransport(app=create_app(node.push))
    async with httpx.AsyncClient(
        transport=transport,
        base_url="http://node/api/v1",
        headers={"authorization": f"Bearer {token}"},
    ) as api:
        yield api


async def stats(node: Node) -> dict[str, Any]:
    async with api_of(node, "admin") as api:
        answer = await api.get("/stats")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def test_only_for_administrators(
    tmp_path: Path, redis_server: RedisServer, key_prefix: str
) -> None:
    async with (
        running_node(tmp_path, redis_server.url, key_prefix, **QUICK) as node,
        api_of(node, "user") as api,
    ):
        assert (await api.get("/stats")).status_code == 403


async def test_every_node_reports_all_nodes(
    tmp_path: Path, redis_server: RedisServer, key_prefix: str
) -> None:
    url = redis_server.url
    async with running_node(tmp_path, url, key_prefix, **QUICK) as one:
        async with (
            running_node(tmp_path, url, key_prefix, **QUICK) as other,
            device(one.ws_url(7), one.person(7)),
            device(other.ws_url(7), other.person(7)),
            device(other.ws_url(8), other.person(8)),
        ):

            async def complete() -> bool:
                seen = await stats(one)
                return (seen["node_count"], seen["connections"], seen["online_users"]) == (2, 3, 2)

            await eventually(complete)

        async def alone() -> bool:
            return [node["node_id"] for node in (await stats(one))["nodes"]] == [one.push.node_id]

        await eventually(alone)


async def test_latencies_rates_and_queues_are_figures(
    tmp_path: Path, redis_server: RedisServer, key_prefix: str
) -> None:
    async with running_node(tmp_path, redis_server.url, key_prefix, **QUICK) as node:
        async with device(node.ws_url(7), node.person(7)) as phone:
            await node.send(7)
            message_id = (await phone.next_message())["message_id"]
            await phone.ack(message_id)
            await phone.round_trip()
            seen = await stats(node)
        for name in ("push", "ack"):
            assert seen["latency_ms"][name]["count"] == 1
            assert 0 <= seen["latency_ms"][name]["p99"] < 10_000
        assert seen["per_s"]["frames_pushed"] > 0
        assert seen["heartbeat"].keys() == {"received", "per_s", "written", "timeouts"}
        assert seen["cleanup"]["nodes_reaped"] >= 0
        assert {queue["name"] for queue in seen["queues"]} >= {
            f"{key_prefix}priority_message_queue",
            f"{key_prefix}message_delivery_queue",
        }


async def test_closes_are_counted_by_code(
    tmp_path: Path, redis_server: RedisServer, key_prefix: str
) -> None:
    settings = {**QUICK, "max_devices_per_user": 1, "device_policy": "evict_oldest"}
    async with running_node(tmp_path, redis_server.url, key_prefix, **settings) as node:
        person = node.person(7)
        async with device(node.ws_url(7), person), device(node.ws_url(7), person):

            async def counted() -> bool:
                return bool((await stats(node))["closes"].get("4505") == 1)

            await eventually(counted)


async def test_a_dead_process_disappears(
    tmp_path: Path, redis_server: RedisServer, key_prefix: str
) -> None:
    async with running_node(tmp_path, redis_server.url, key_prefix, **QUICK) as node:
        seen = (await stats(node))["nodes"][0]
        push = node.push
        report = push._observation.reports._reporter.report()
        dead = {**seen, "node_id": "dead", "reported_at": report.reported_at - 60_000}
        await push._rooms.bus.redis.client.hset(
            push._rooms.bus.redis.keys.node_reports, "dead", json.dumps(dead)
        )
        assert [one["node_id"] for one in (await stats(node))["nodes"]] == [push.node_id]
        assert not await push._rooms.bus.redis.client.hexists(
            push._rooms.bus.redis.keys.node_reports, "dead"
        )


async def test_the_histograms_are_metrics_too(
    tmp_path: Path, redis_server: RedisServer, key_prefix: str
) -> None:
    async with running_node(tmp_path, redis_server.url, key_prefix) as node:
        async with device(node.ws_url(7), node.person(7)) as phone:
            await node.send(7)
            await phone.next_message()
        text = node.push.metrics.render().decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    family = families["meeting_push_push_latency_seconds"]
    assert family.type == "histogram"
    counts = {
        sample.labels["le"]: sample.value
        for sample in family.samples
        if sample.name.endswith("_bucket")
    }
    assert counts["+Inf"] == 1
