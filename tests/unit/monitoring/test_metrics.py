"""C12：指标的名字说出单位，抽样的直方图说自己是抽样。"""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from meeting_push.monitoring.metrics import Metrics, Sample
from tests.support.redis_server import RedisServer
from tests.support.running_node import running_node

#: 名字里说出一段时间、一些字节而不用基本单位的。
WRONG_UNITS = ("_ms", "_millis", "_milliseconds", "_us", "_minutes", "_kb", "_mb", "_percent")


async def test_c12_names_end_in_base_units(
    tmp_path: Path, redis_server: RedisServer, key_prefix: str
) -> None:
    """C12: seconds and bytes, never milliseconds."""
    async with running_node(tmp_path, redis_server.url, key_prefix) as node:
        text = node.push.metrics.render().decode()
    names = [family.name for family in text_string_to_metric_families(text)]
    assert [name for name in names if name.endswith(WRONG_UNITS)] == []
    assert "meeting_push_canary_round_trip_seconds" in names


@pytest.mark.parametrize("name", ["push", "ack"])
async def test_c12_a_sampled_histogram_says_so(
    tmp_path: Path, redis_server: RedisServer, key_prefix: str, name: str
) -> None:
    """C12: whoever reads its _count must know."""
    async with running_node(tmp_path, redis_server.url, key_prefix) as node:
        text = node.push.metrics.render().decode()
    assert f"# HELP meeting_push_{name}_latency_seconds" in text
    [line] = [each for each in text.splitlines() if f"HELP meeting_push_{name}_latency" in each]
    assert "sample" in line


def test_a7_a_flood_of_scrapes_is_answered_with_the_last_page() -> None:
    """A7: anybody may ask for it, and each page costs the loop ten milliseconds."""
    asked = 0

    def source() -> list[Sample]:
        nonlocal asked
        asked += 1
        return [Sample("asked", "counter", "h", asked)]

    metrics = Metrics()
    metrics.add(source)
    pages = [metrics.page() for _ in range(500)]
    assert b"meeting_push_asked_total 2" in pages[1]
    assert pages[-1] == pages[-2]
    assert asked < 60
