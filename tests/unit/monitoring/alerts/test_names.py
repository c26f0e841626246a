"""规则看的每一个指标，一个真的节点都有。"""

from __future__ import annotations

from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from meeting_push.monitoring.alerts.rule import selectors
from meeting_push.monitoring.alerts.rules import RULES
from meeting_push.monitoring.metrics import PREFIX
from tests.support.event_receivers import SECRET
from tests.support.eventually import eventually
from tests.support.redis_server import RedisServer
from tests.support.running_node import Node, running_node


def seen(node: Node) -> dict[str, set[str]]:
    """名字（不带前缀）→ 它的标签的值。"""
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(node.push.metrics.render().decode()):
        for sample in family.samples:
            values = found.setdefault(family.name.removeprefix(PREFIX), set())
            values.update(sample.labels.values())
    return found


async def test_a_node_reports_every_metric_the_rules_name(
    tmp_path: Path, embedded_redis_server: RedisServer, key_prefix: str
) -> None:
    wanted = {one.name for rule in RULES.values() for one in selectors(rule.expression)}
    hooks = tmp_path / "hooks.yaml"  # 没有接收者就没有它们的数
    hooks.write_text(f"- {{url: 'http://127.0.0.1:1/', secret: {SECRET}}}\n")
    redis_url = embedded_redis_server.url
    async with running_node(tmp_path, redis_url, key_prefix, webhooks=hooks) as node:

        async def all_there() -> bool:
            return wanted <= seen(node).keys()

        await eventually(all_there)


async def test_the_values_of_labels_the_rules_name_exist(
    tmp_path: Path, embedded_redis_server: RedisServer, key_prefix: str
) -> None:
    wanted = {
        (one.name, value)
        for rule in RULES.values()
        for one in selectors(rule.expression)
        for value in one.values
    }
    async with running_node(tmp_path, embedded_redis_server.url, key_prefix) as node:

        async def all_there() -> bool:
            found = seen(node)
            return all(value in found.get(name, ()) for name, value in wanted)

        await eventually(all_there)
