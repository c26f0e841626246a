"""滚动发布：两个节点一个端口，负载之下停掉一个，什么也不丢，所有人到另一个上去。"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from meeting_push.client import PushClient
from tests.support.eventually import eventually, wait_until
from tests.support.people import Person, api_of, register
from tests.support.redis_server import RedisServer
from tests.support.server_process import ServerProcess

from .raw_device import RawDevice

USERS = 5  # 用 SDK 的；另有这么多用裸的
DEVICES = 20  # 每个用户
PERIOD_S = 0.1


class SdkDevice:
    """应用眼里的：每个 id 几次，有没有看到错误。"""

    def __init__(self, base_url: str, person: Person) -> None:
        self.client = PushClient(base_url, person.token, user_id=person.user_id)
        self.received: Counter[str] = Counter()

    async def run(self) -> None:
        async with self.client:
            async for message in self.client:
                self.received[message.message_id] += 1


class Load:
    """不停地发；记下每个用户该收到什么。"""

    def __init__(self, base_url: str, sender: Person, people: list[Person]) -> None:
        self.sent: dict[int, set[str]] = {person.user_id: set() for person in people}
        self._base_url = base_url
        self._sender = sender
        self._people = people

    async def run(self) -> None:
        for number, person in enumerate(itertools.cycle(self._people)):
            self.sent[person.user_id].add(await self._post(number, person))
            await asyncio.sleep(PERIOD_S)

    async def _post(self, number: int, person: Person) -> str:
        """连接断了就以同一个 Idempotency-Key 再来。"""
        body = {"recipient_ids": [person.user_id], "title": f"n{number}", "content": "c"}
        while True:
            with contextlib.suppress(httpx.TransportError):
                async with api_of(self._base_url, self._sender) as api:
                    key = {"Idempotency-Key": f"k{number}"}
                    answer = await api.post("/messages", json=body, headers=key)
                assert answer.status_code == 202, answer.text
                return str(answer.json()["message_id"])


@contextlib.contextmanager
def two_nodes(tmp_path: Path, redis: RedisServer, prefix: str) -> Iterator[ServerProcess]:
    settings = {"key_prefix": prefix, "reuse_port": True}
    first = ServerProcess(tmp_path, redis_url=redis.url, settings=settings)
    same_port = ("--port", str(first.port))
    second = ServerProcess(tmp_path, *same_port, redis_url=redis.url, settings=settings)
    second.log = tmp_path / "second.log"
    with first:
        second.launch()
        try:
            wait_until(lambda: " serving" in second.output, 30)
            yield first
        finally:
            second.stop()


@contextlib.asynccontextmanager
async def running(*work: object) -> AsyncIterator[list[asyncio.Task[None]]]:
    tasks = [asyncio.create_task(one.run()) for one in work]  # type: ignore[attr-defined]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.timeout(120)
async def test_a_rolling_stop_under_load_loses_nothing(
    tmp_path: Path, redis7_server: RedisServer, key_prefix: str
) -> None:
    with two_nodes(tmp_path, redis7_server, key_prefix) as first:
        url = f"http://127.0.0.1:{first.port}"
        sender = await register(url, "sender")
        people = [await register(url, f"user-{n}") for n in range(USERS * 2)]
        sdk = [SdkDevice(url, one) for one in people[:USERS] for _ in range(DEVICES)]
        raw = [
            RawDevice(f"ws{url[4:]}/ws/user/{one.user_id}/messages", one, f"d{n}")
            for one in people[USERS:]
            for n in range(DEVICES)
        ]

        def all_connected() -> bool:
            return all(d.client.connected.is_set() for d in sdk) and all(
                d.connected.is_set() for d in raw
            )

        async with running(*sdk, *raw) as devices:
            await eventually(all_connected, 30)
            load = Load(url, sender, people)
            async with running(load) as [sending]:
                await eventually(lambda: len(load.sent[people[-1].user_id]) >= 2, 30)
                assert await asyncio.to_thread(first.terminate) == 0
                await eventually(all_connected, 30)
                await eventually(lambda: min(map(len, load.sent.values())) >= 6, 30)
                assert not sending.done()

            def owners() -> list[tuple[Person, SdkDevice | RawDevice]]:
                each = [one for one in people for _ in range(DEVICES)]
                return list(zip(each, [*sdk, *raw], strict=True))

            await eventually(
                lambda: all(d.received.keys() >= load.sent[p.user_id] for p, d in owners()), 30
            )
            assert all(max(d.received.values()) == 1 for d in sdk)
            assert not any(task.done() for task in devices)  # 谁也没有看到错误
        # 一半左右的人原在停掉的节点上；谁也没有被要求“不许再来”
        codes = Counter(code for d in raw for code in d.closes)
        assert codes[4000] > 0
        assert not any(code is not None and code >= 4500 for code in codes)
