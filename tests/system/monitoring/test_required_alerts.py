"""需求的四条告警，真的故障：内置的与真的 Prometheus 都触发，Alertmanager 交到这里，好了都清。

两个进程的节点；窗口与等待缩短了，阈值是默认的。
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any, Final

import pytest

from tests.support.accounts import create_people, sign
from tests.support.eventually import eventually
from tests.support.people import Person, api_of, device
from tests.support.prometheus_site import PrometheusSite
from tests.support.redis_server import RedisServer, find_embedded_redis, find_redis7
from tests.support.server_process import ServerProcess

RULES: Final = """
rules:
  push_success_low: {window_s: 8, for_s: 0}
  abnormal_disconnects_high: {window_s: 8, for_s: 0}
  redis_unavailable: {for_s: 1}
  redis_slow: {for_s: 1}
  resource_usage_high: {for_s: 0}
"""
WITHIN_S: Final = 40.0
OPEN_FILES: Final = 600


@dataclass(frozen=True)
class Place:
    """一个节点与看着它的。"""

    server: ServerProcess
    redis: RedisServer
    admin: Person
    database_url: str

    async def engines(self, rule: str, **labels: str) -> set[str]:
        """哪几边说这条规则在触发。"""
        async with api_of(self.server.base_url, self.admin) as api:
            query = {"state": "firing", "limit": "200"}
            items: list[dict[str, Any]] = (await api.get("/alerts", params=query)).json()["items"]
        ours = [one for one in items if one["rule"] == rule]
        ours = [one for one in ours if labels.items() <= one["labels"].items()]
        return {one["labels"].get("source", "built-in") for one in ours}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("place")
    binary = find_redis7() or find_embedded_redis()
    if binary is None:
        pytest.skip("no redis-server")
    redis = RedisServer(binary, folder)
    rules = folder / "ours.yml"
    rules.write_text(RULES)
    settings = {
        "alerts": rules,
        "alerts_interval_s": 0.5,
        "stats_interval_s": 0.5,
        "expiry_interval_s": 0.5,
    }
    server = ServerProcess(
        folder,
        redis_url=redis.url,
        workers=2,
        settings=settings,
        max_open_files=OPEN_FILES,
    )
    admin = Person(1, "ops", sign(1, "ops", "admin"))
    site = PrometheusSite(folder / "site", rules, server.port, admin.token)
    with contextlib.ExitStack() as stack:
        stack.callback(redis.stop)
        redis.start()
        stack.enter_context(server)
        stack.enter_context(site.running())
        yield Place(server, redis, admin, f"sqlite:///{folder}/data/meeting-push.db")


BOTH: Final = {"built-in", "alertmanager"}


async def fires_and_clears(
    place: Place, rule: str, provoke: Callable[[], Awaitable[object]], **labels: str
) -> AsyncIterator[None]:
    """反复制造故障，到两边都触发；让调用者弄好它；两边都清。"""

    async def both_fire() -> bool:
        await provoke()
        return await place.engines(rule, **labels) == BOTH

    async def nobody_fires() -> bool:
        return not await place.engines(rule, **labels)

    await eventually(both_fire, WITHIN_S)
    yield
    await eventually(nobody_fires, WITHIN_S)


async def quiet() -> None:
    await asyncio.sleep(0)


@pytest.mark.timeout(180)
async def test_push_success_below_95_percent(place: Place) -> None:
    (absent,) = await create_people(place.database_url, 1)

    async def expire() -> None:
        body = {"recipient_ids": [absent.user_id], "title": "t", "content": "", "expires_in_s": 1}
        async with api_of(place.server.base_url, place.admin) as api:
            await api.post("/messages", json=body)

    async for _ in fires_and_clears(place, "push_success_low", expire):
        pass


@pytest.mark.timeout(180)
async def test_abnormal_disconnects_above_5_percent(place: Place) -> None:
    people = await create_people(place.database_url, 10)

    async def vanish() -> None:
        for one in people:
            async with device(place.server.ws_url(one.user_id), one) as phone:
                phone.socket.transport.abort()

    async for _ in fires_and_clears(place, "abnormal_disconnects_high", vanish):
        pass


@pytest.mark.timeout(180)
async def test_redis_unavailable(place: Place) -> None:
    place.redis.kill()
    async for _ in fires_and_clears(place, "redis_unavailable", quiet):
        place.redis.start()


@pytest.mark.timeout(180)
async def test_redis_does_not_answer_in_time(place: Place) -> None:
    place.redis.pause()
    async for _ in fires_and_clears(place, "redis_unavailable", quiet):
        place.redis.resume()


@pytest.mark.timeout(180)
async def test_resource_usage_above_80_percent(place: Place) -> None:
    people = cycle(await create_people(place.database_url, 200))
    async with contextlib.AsyncExitStack() as devices:

        async def use_up() -> None:
            if not await place.engines("resource_usage_high", resource="open_files"):
                for one in islice(people, 8):  # 一点一点来：用到头了，别的也办不成
                    url = place.server.ws_url(one.user_id)
                    await devices.enter_async_context(device(url, one))

        watched = fires_and_clears(place, "resource_usage_high", use_up, resource="open_files")
        async for _ in watched:
            await devices.aclose()
