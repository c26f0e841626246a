"""E6：后来的节点与先来的对不上，就不就绪；先来的照常。"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.eventually import wait_until
from tests.support.server_process import TEST_JWT_SECRET

from .faults import sql
from .fleet import Fleet, Node, becomes, readiness

OTHER_SECRET = "another-secret-another-secret-another!"
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")


@pytest.fixture
def joining(fleet: Fleet) -> Iterator[list[Node]]:
    """后来的；测试结束就离开。"""
    came: list[Node] = []
    yield came
    for node in came:
        fleet.remove(node)


def test_other_keys(fleet: Fleet, joining: list[Node]) -> None:
    """E6：不认得别人签的令牌：503，说出 ``keys``；已就绪的仍就绪。"""
    stranger = fleet.add("gateway", start=False, jwt_secret=OTHER_SECRET)
    joining.append(stranger)
    stranger.server.launch()
    becomes(stranger.server, 503, "keys", within=30)
    assert [readiness(n.server).status for n in (fleet.api, *fleet.gateways)] == [200] * 3


def test_another_audience_is_another_key(fleet: Fleet, joining: list[Node]) -> None:
    """E6：同一把密钥、别的受众，一样谁也进不来。"""
    stranger = fleet.add("gateway", start=False, jwt_audience="elsewhere")
    joining.append(stranger)
    stranger.server.launch()
    becomes(stranger.server, 503, "keys", within=30)


def test_a_rotation_agrees(fleet: Fleet, joining: list[Node]) -> None:
    """E6：换密钥时旧的还认得，就合群。"""
    previous = f'["{TEST_JWT_SECRET}"]'
    rotated = fleet.add(
        "gateway", start=False, jwt_secret=OTHER_SECRET, jwt_previous_secrets=previous
    )
    joining.append(rotated)
    rotated.server.launch()
    becomes(rotated.server, 200, within=30)


@pytest.mark.skipif(not FAKETIME.exists(), reason="needs libfaketime")
def test_a_clock_that_is_off(
    fleet: Fleet, joining: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    """E6：钟差 30 秒以上：503，说出 ``clock``。"""
    monkeypatch.setenv("LD_PRELOAD", str(FAKETIME))
    monkeypatch.setenv("FAKETIME", "+60s")
    monkeypatch.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")
    late = fleet.add("worker", start=False)
    joining.append(late)
    late.server.launch()
    becomes(late.server, 503, "clock", within=40)
    assert readiness(fleet.worker.server).status == 200


def checks(node: Node) -> float:
    """这个进程写过几遍 Redis 看它在不在。"""
    text = httpx.get(f"{node.server.base_url}/metrics", timeout=5, trust_env=False).text
    name = "meeting_push_redis_round_trip_seconds_count"
    return next(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))


def test_probes_leave_nothing_behind(fleet: Fleet) -> None:
    """契约：就绪检查不出现在统计、队列、收件箱里。"""
    counts = ("mp_messages", "mp_message_recipients", "mp_idempotency_keys")
    before = [sql(fleet, f"SELECT count(*) FROM {table}") for table in counts]
    nodes = (fleet.api, *fleet.gateways, fleet.worker)
    done = list(map(checks, nodes))
    wait_until(lambda: all(c >= d + 2 for c, d in zip(map(checks, nodes), done, strict=True)), 30)
    assert [sql(fleet, f"SELECT count(*) FROM {table}") for table in counts] == before
