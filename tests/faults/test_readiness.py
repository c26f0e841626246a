"""就绪就是写得成（docs/contract.md“就绪”）：一样一样地弄坏，10 秒之内说出来，修好又好。"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from tests.support.people import Person, api_of, device, register

from .faults import REDIS_FAULTS, SQL_FAULTS, Fault, redis_admin
from .fleet import Fleet, Log, becomes

#: 每个进程每分钟至多这么多行；坏着的这十几秒里已经说了一分钟里要说的。
MOST_LINES = 20


@pytest.fixture
async def bob(fleet: Fleet) -> AsyncIterator[Person]:
    """在线；坏着的时候也有人在收、在发。"""
    bob = await register(fleet.api.url, "bob")
    async with device(fleet.gateways[0].server.ws_url(bob.user_id), bob):
        yield bob


@contextlib.asynccontextmanager
async def sending(fleet: Fleet, bob: Person) -> AsyncIterator[set[int]]:
    """坏着也照发；产出见过的状态码。"""
    statuses: set[int] = set()
    body = {"recipient_ids": [bob.user_id], "title": "t", "content": "c"}

    async def run() -> None:
        async with api_of(fleet.api.url, bob) as api:
            while True:
                statuses.add((await api.post("/messages", json=body)).status_code)
                await asyncio.sleep(0.2)

    task = asyncio.create_task(run())
    try:
        yield statuses
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@contextlib.asynccontextmanager
async def drill(fleet: Fleet, bob: Person, fault: Fault) -> AsyncIterator[set[int]]:
    """弄坏、看（``with`` 里）、修好、等恢复；期间没有回溯，日志没有淹。"""
    logs = [Log.of(node.server) for node in fleet.nodes]
    async with sending(fleet, bob) as statuses:
        with fault.breaking(fleet):
            yield statuses
        for node in fleet.nodes:
            await asyncio.to_thread(becomes, node.server, 200)
    for log in logs:
        assert "Traceback" not in log.text
        assert len(log.lines) <= MOST_LINES, log.text


@pytest.mark.parametrize("fault", REDIS_FAULTS, ids=lambda fault: fault.name)
async def test_redis_refuses_writes(fleet: Fleet, bob: Person, fault: Fault) -> None:
    """B2（及同类）：网关、工人不就绪并说出原因，api 照常，写在 degraded 里；好了都好。"""
    async with drill(fleet, bob, fault) as statuses:
        for node in (*fleet.gateways, fleet.worker):
            await asyncio.to_thread(becomes, node.server, 503, fault.cause)
        await asyncio.to_thread(becomes, fleet.api.server, 200, fault.cause)
    assert statuses == {202}


@pytest.mark.parametrize("fault", SQL_FAULTS, ids=lambda fault: fault.name)
async def test_sql_refuses_writes(fleet: Fleet, bob: Person, fault: Fault) -> None:
    """B3（及同类）、E12：api 不就绪并说出原因；网关、工人用不着 SQL，照常。"""
    async with drill(fleet, bob, fault) as statuses:
        await asyncio.to_thread(becomes, fleet.api.server, 503, fault.cause)
        for node in (*fleet.gateways, fleet.worker):
            await asyncio.to_thread(becomes, node.server, 200, fault.cause)
    assert statuses <= {202, 503}


@pytest.mark.full_size
@pytest.mark.timeout(180)
@pytest.mark.parametrize("fault", [*REDIS_FAULTS, *SQL_FAULTS], ids=lambda fault: fault.name)
async def test_a_minute_of_it_is_twenty_lines(fleet: Fleet, bob: Person, fault: Fault) -> None:
    """B2、B3：坏一分钟，每个进程至多 20 行，没有回溯。"""
    async with drill(fleet, bob, fault):
        await asyncio.sleep(60)


async def test_a_queue_that_is_no_queue(fleet: Fleet, bob: Person) -> None:
    """B1、B2 的同类：有人把队列的键写成了别的类型：工人不就绪，说得出是什么，没有回溯。"""
    log = Log.of(fleet.worker.server)
    with redis_admin(fleet) as admin:
        admin.delete("priority_message_queue")
        admin.set("priority_message_queue", "x")
        await asyncio.to_thread(becomes, fleet.worker.server, 503, "WRONGTYPE")
        admin.delete("priority_message_queue")
    await asyncio.to_thread(becomes, fleet.worker.server, 200)
    assert "Traceback" not in log.text
    assert len(log.lines) <= MOST_LINES, log.text
