"""时间缩短了的服务器，共用；每个测试有自己的用户。"""

from __future__ import annotations

from typing import Final
from uuid import uuid4

import pytest

from tests.support.accounts import resident, sign
from tests.support.house import House, house_fixture
from tests.support.people import Person
from tests.support.server_process import ServerProcess

#: 一分钟、五分钟、十五分钟的缩影。
QUICK: Final = {
    "retry_delays_s": "[0.2, 0.3, 0.4]",
    "expiry_interval_s": 0.2,
    "relay_interval_s": 0.2,
    "relay_grace_s": 0.5,
    "claim_idle_ms": 500,
}


#: 断言不变；要杀 Redis 的模块另给自己的。
house = house_fixture({}, shared=QUICK, engines=("own", "sentinel", "cluster"))


@pytest.fixture(scope="module")
def server(house: House) -> ServerProcess:
    return house.start()


@pytest.fixture(scope="module")
def second(house: House, server: ServerProcess) -> ServerProcess:
    """同一套 Redis 与数据库上的另一个网关。"""
    return house.start("gateway")


@pytest.fixture
async def alice(house: House, server: ServerProcess) -> Person:
    return await resident(house.database_url, f"alice-{uuid4().hex[:8]}")


@pytest.fixture
async def bob(house: House, server: ServerProcess) -> Person:
    return await resident(house.database_url, f"bob-{uuid4().hex[:8]}")


@pytest.fixture
def admin() -> Person:
    return Person(999, "root", sign(999, "root", "admin"))
