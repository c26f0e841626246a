from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from tests.support.node import node
from tests.support.redis_server import RedisServer

from .nodes import StartNode


@pytest.fixture
def start_node(private_redis_server: RedisServer, database_url: str, tmp_path: Path) -> StartNode:
    return partial(
        node,
        redis_url=private_redis_server.url,
        database_url=database_url,
        directory=tmp_path,
    )
