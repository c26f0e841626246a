"""操作页上的数：看的指标一个真的节点都有，每条规则都有值得看的曲线。"""

from __future__ import annotations

from pathlib import Path

from meeting_push.monitoring.alerts.rules import RULES
from meeting_push.monitoring.figures import FIGURES, OF_RULES, Percentile, watched
from tests.support.eventually import eventually
from tests.support.redis_server import RedisServer
from tests.support.running_node import running_node


async def test_a_node_reports_what_every_figure_is_made_of(
    tmp_path: Path, embedded_redis_server: RedisServer, key_prefix: str
) -> None:
    wanted = watched(FIGURES.values())
    async with running_node(tmp_path, embedded_redis_server.url, key_prefix) as node:
        metrics = node.push.metrics

        async def all_there() -> bool:
            found: dict[str, set[str]] = {}
            for sample in metrics.samples():
                found.setdefault(sample.name, set()).update(sample.labels.values())
            return all(
                one.name in found and found[one.name].issuperset(one.values) for one in wanted
            )

        await eventually(all_there)
        values = [one.value for one in FIGURES.values()]
        latencies = {one.latency for one in values if isinstance(one, Percentile)}
        assert latencies <= metrics.latencies.keys()


def test_every_rule_has_its_figures() -> None:
    assert OF_RULES.keys() == RULES.keys()
    assert {name for names in OF_RULES.values() for name in names} <= FIGURES.keys()
