"""测试自己的 Cluster：起得来，搬得动槽，副本接得上。"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.clusters import SLOTS, ClusterSite
from tests.support.redis_server import find_redis7

pytestmark = pytest.mark.timeout(240)


@pytest.mark.parametrize("which", ["cluster_site", "embedded_cluster_site"])
def test_three_masters_cover_every_slot(which: str, request: pytest.FixtureRequest) -> None:
    site: ClusterSite = request.getfixturevalue(which)
    assert len(site.masters) == 3
    assert {site.owner_of(slot) for slot in (0, SLOTS // 2, SLOTS - 1)} == set(site.masters)
    assert site.url.startswith("redis+cluster://127.0.0.1:")


def test_slots_move_with_their_keys_and_a_replica_takes_over(tmp_path: Path) -> None:
    binary = find_redis7()
    if binary is None:
        pytest.skip("no redis-server >= 7 on PATH")
    site = ClusterSite(binary, tmp_path, replicas=1, node_timeout_ms=2_000, password="secret")
    site.start()
    try:
        first, second, _ = site.masters
        slot = int(site.ask(first, "CLUSTER", "KEYSLOT", "{a}"))
        here = site.owner_of(slot)
        there = second if here is first else first
        site.ask(here, "SET", "{a}:1", "x")
        site.move_slot(slot, there)
        assert site.owner_of(slot) is there
        assert site.ask(there, "GET", "{a}:1") == "x"
        there.kill()
        heir = site.promoted(there, slot)
        assert site.ask(heir, "GET", "{a}:1") == "x"
        there.start()
        site.whole()
        assert len(site.masters) == 3
    finally:
        site.stop()
