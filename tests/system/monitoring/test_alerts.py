"""告警，真的进程：评估的那个死了，另一个接着等，触发一次。"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from meeting_push.storage.alerts import AlertStateRepository
from meeting_push.storage.database import Database
from tests.support.eventually import eventually
from tests.support.house import House
from tests.support.people import Person, api_of
from tests.support.redis_server import RedisServer
from tests.support.server_process import ServerProcess

RULE = "authentication_failures_high"
#: 接手的上限（契约）。
TAKEN_OVER_S = 30


def house_of(tmp_path: Path, redis: RedisServer, for_s: float) -> House:
    rules = tmp_path / "alerts.yml"
    rules.write_text(f"rules: {{{RULE}: {{threshold: 1, for_s: {for_s}}}}}")
    house = House(tmp_path, redis, shared={"alerts": rules, "alerts_interval_s": 0.3})
    for name in ("near", "far"):
        house.add(name)
    return house


async def evaluates(server: ServerProcess) -> bool:
    async with httpx.AsyncClient(base_url=server.base_url, trust_env=False) as client:
        return "meeting_push_alert_evaluator 1.0" in (await client.get("/metrics")).text


async def the_evaluator(house: House) -> str:
    async def found() -> str | None:
        names = [name for name, one in house.servers.items() if await evaluates(one)]
        return names[0] if names else None

    return await eventually(found) or ""


async def fail(server: ServerProcess, times: int = 3) -> None:
    """几次拿着坏令牌的请求。"""
    async with httpx.AsyncClient(base_url=server.base_url, trust_env=False) as client:
        for _ in range(times):
            await client.get("/api/v1/messages", headers={"authorization": "Bearer bad"})


async def alerts(server: ServerProcess, admin: Person) -> list[dict[str, Any]]:
    """这条规则的；杀掉的节点另有一条 ``node_lost``。"""
    async with api_of(server.base_url, admin) as api:
        items = (await api.get("/alerts")).json()["items"]
    return [one for one in items if one["rule"] == RULE]


@pytest.mark.timeout(120)
async def test_the_evaluator_is_killed_while_an_alert_waits_it_fires_once_all_the_same(
    tmp_path: Path, private_redis_server: RedisServer, show: Callable[[str], None]
) -> None:
    with house_of(tmp_path, private_redis_server, for_s=6) as house:
        admin = await house.admin()
        first = await the_evaluator(house)
        second = "far" if first == "near" else "near"
        await fail(house[first])
        await fail(house[second])
        database = Database(house.database_url)
        waits = AlertStateRepository(database).pending
        await eventually(waits)
        await database.dispose()

        killed_at = time.monotonic()
        house[first].kill()

        async def fired() -> list[dict[str, Any]]:
            return await alerts(house[second], admin)

        await eventually(fired, TAKEN_OVER_S + 6)
        show(f"fired {time.monotonic() - killed_at:.1f} s after the evaluator was killed")
        house[first].start()
        found = await fired()
        told = len(re.findall(f"alert_firing .*{RULE}", house[second].output))
    assert [one["state"] for one in found] == ["firing"]
    assert told == 1
