"""docs/metrics.md 说的就是节点说的。"""

from __future__ import annotations

from pathlib import Path

from tests.support.redis_server import RedisServer
from tests.support.running_node import running_node
from tools.metrics_page import PAGE, page


async def test_the_page_of_the_metrics_is_up_to_date(
    tmp_path: Path, embedded_redis_server: RedisServer, key_prefix: str
) -> None:
    async with running_node(tmp_path, embedded_redis_server.url, key_prefix) as node:
        assert await page(node.push) == PAGE.read_text(), "run: make figures"
