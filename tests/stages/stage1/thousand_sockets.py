"""任务 4.1：1,000 条并发连接；``test_stage1_integration.py`` 里跑，用那里的服务器。

这是测试套件的大小：几秒钟，证明目标够得着。开环的、几分钟的、带报告的测量是
``meeting-push bench 1k --check``，更大的是 ``bench 10k``、``bench 100k``、``bench soak``。
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Final

import psutil
from websockets.exceptions import WebSocketException

from meeting_push_bench.open_files import allow_sockets
from tests.support.house import House
from tests.support.people import Device, Person, api_of, device, send
from tests.support.server_process import ServerProcess
from tests.support.stopwatch import best_p95_ms, percentile, push_latency_ms

SOCKETS: Final = 1_000
AT_ONCE: Final = 32
#: 一轮延迟量这么多条，收件人随机。
MESSAGES: Final = 40
LATENCY_GOAL_MS: Final = 100
#: 服务器进程为每条连接多占的内存，连同首次使用才分配的；``bench edges`` 量得 9 KB。
MEMORY_GOAL_BYTES: Final = 64 * 1024

Record = Callable[[str, object], None]


class Arrivals:
    """来了的、没来成的，各用了多久（毫秒，升级到 welcome）。"""

    def __init__(self, server: ServerProcess) -> None:
        self.devices: list[Device] = []
        self.took_ms: list[float] = []
        self._server = server
        self._turn = asyncio.Semaphore(AT_ONCE)
        self._gone = asyncio.Event()

    async def hold(self, person: Person, settled: asyncio.Semaphore) -> None:
        """连上，说一声，等到大家散场。"""
        try:
            async with self._turn:
                start = time.perf_counter()
                line = device(self._server.ws_url(person.user_id), person)
                one = await line.__aenter__()
        except (OSError, WebSocketException, TimeoutError):
            settled.release()
            return
        self.took_ms.append((time.perf_counter() - start) * 1000)
        self.devices.append(one)
        settled.release()
        await self._gone.wait()
        async with self._turn:
            await line.__aexit__(None, None, None)

    def disperse(self) -> None:
        self._gone.set()


class ThousandSockets:
    async def test_4_1_a_thousand_sockets(self, house: House, record_property: Record) -> None:
        """任务 4.1 验收标准：支持1000个并发WebSocket连接；消息推送延迟 < 100ms (P95)；
        连接建立成功率 > 99%；系统资源使用在合理范围内。"""
        allow_sockets(SOCKETS)
        server = house["main"]
        process = psutil.Process(server.pid)
        [sender], people = await house.people(1), await house.people(SOCKETS)
        before = process.memory_info().rss
        arrivals, settled = Arrivals(server), asyncio.Semaphore(0)
        async with asyncio.TaskGroup() as group:
            for person in people:
                group.create_task(arrivals.hold(person, settled))
            try:
                for _ in people:
                    await settled.acquire()
                grown = process.memory_info().rss - before
                self._report_connects(arrivals, record_property)
                assert len(arrivals.devices) > 0.99 * SOCKETS
                record_property("内存，每条连接（KB）", round(grown / SOCKETS / 1024, 1))
                assert grown < SOCKETS * MEMORY_GOAL_BYTES

                best = await best_p95_ms(
                    lambda: self._latencies_ms(server, sender, arrivals.devices), LATENCY_GOAL_MS
                )
                record_property("推送延迟 P95（ms，POST 到设备）", round(best, 1))
                assert best < LATENCY_GOAL_MS

                rate = await self._everyone_at_once(server, sender, people, arrivals.devices)
                record_property("一条给全部：推送（帧/s）", round(rate))
                assert not any(one.reader.done() for one in arrivals.devices)
            finally:
                arrivals.disperse()

    @staticmethod
    def _report_connects(arrivals: Arrivals, record: Record) -> None:
        took = arrivals.took_ms
        record("连接成功", f"{len(took)} / {SOCKETS}")
        figures = (sum(took) / len(took), percentile(took, 95), max(took))
        record("建立（ms）平均 · P95 · 最大", " · ".join(f"{each:.0f}" for each in figures))

    @staticmethod
    async def _latencies_ms(
        server: ServerProcess, sender: Person, devices: list[Device]
    ) -> list[float]:
        async with api_of(server.base_url, sender) as api:

            async def once(one: Device) -> float:
                body = {"recipient_ids": [one.welcome["user_id"]], "title": "t", "content": "c"}

                async def post() -> str:
                    return str((await api.post("/messages", json=body)).json()["message_id"])

                return await push_latency_ms(post, one)

            return [await once(one) for one in random.sample(devices, MESSAGES)]

    @staticmethod
    async def _everyone_at_once(
        server: ServerProcess, sender: Person, people: list[Person], devices: list[Device]
    ) -> float:
        start = time.perf_counter()
        message_id = await send(server.base_url, sender, people)
        frames = await asyncio.gather(*(one.next_message(20) for one in devices))
        took_s = time.perf_counter() - start
        assert {frame["message_id"] for frame in frames} == {message_id}
        await asyncio.gather(*(one.ack(message_id) for one in devices))
        return len(frames) / took_s
