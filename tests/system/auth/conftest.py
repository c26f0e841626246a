"""两个节点、一个 Redis、一个数据库；SQLite 配内嵌的 Valkey，PostgreSQL 配 Redis 7。"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.house import TWINS, house_fixture

from .visitors import Lines

house = house_fixture(TWINS, engines=["sqlite", "postgres"], scope="package")


@pytest.fixture
async def lines() -> AsyncIterator[Lines]:
    async with Lines() as opened:
        yield opened
