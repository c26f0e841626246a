"""两个服务器、一个 Redis、一个数据库；SQLite 配内嵌的 Valkey，PostgreSQL 配 Redis 7。"""

from __future__ import annotations

import pytest

from tests.support.accounts import resident
from tests.support.house import TWINS, House, house_fixture
from tests.support.people import Person

#: 等得起的时限都缩短；上限放宽到测试碰不着（碰它们的测试自己起服务器）。
QUICK = {
    "meeting_refresh_s": 0.5,
    "meeting_leave_grace_s": 0.2,
    "meeting_frames_per_s": 10_000,
    "meeting_bytes_per_s": 10_000_000,
    "relay_interval_s": 0.2,
    "relay_grace_s": 0.5,
}

house = house_fixture(TWINS, shared=QUICK, engines=["sqlite", "postgres"], scope="package")


@pytest.fixture
async def alice(house: House) -> Person:
    return await resident(house.database_url, "alice")


@pytest.fixture
async def bob(house: House) -> Person:
    return await resident(house.database_url, "bob")


@pytest.fixture
async def carol(house: House) -> Person:
    """从不受邀。"""
    return await resident(house.database_url, "carol")
