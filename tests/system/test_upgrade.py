"""不停机的升级：旧的与下一版（``tests/support/next_build.py``）并排着，滚动重启什么也不丢。"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from meeting_push.storage.database import Database
from tests.support.eventually import eventually, wait_until
from tests.support.house import House, house_fixture
from tests.support.next_build import NEXT_HEAD, SHADE, next_source
from tests.support.people import Device, Person, api_of, delivery, device, register, send
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer
from tests.support.server_process import ServerProcess
from tests.system.connections.test_rolling import Load, SdkDevice, running

#: 全经队列：看的就是条目；认领得勤。
SHARED = {"direct_recipients": 0, "claim_idle_ms": 1_000, "consumer_block_ms": 200}
house = house_fixture(
    {"old": ("all", {})}, shared=SHARED, engines=("own", "own-postgres"), scope="module"
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return next_source(tmp_path_factory.mktemp("next"))


@pytest.fixture(scope="module")
def newer(house: House, source: Path) -> ServerProcess:
    one = house.add("newer")
    one.source = source
    return one.start(60)


async def there_and_back(server: ServerProcess, sender: Person, to: Person, at: Device) -> Any:
    """经 ``server`` 发一条，``at`` 收到、确认了，也记下了；返回那一帧。"""
    message_id = await send(server.base_url, sender, [to])
    frame = await at.next_message(60)
    assert frame["message_id"] == message_id
    await at.ack(message_id)

    async def recorded() -> bool:
        return bool((await delivery(server.base_url, sender, message_id))["delivered"])

    await eventually(recorded, 60)
    return frame


@pytest.mark.timeout(180)
async def test_both_builds_deliver_to_each_others_devices(
    house: House, newer: ServerProcess
) -> None:
    """一样的 Redis 与库；新的写的条目旧的读不懂，留给新的；谁也没有不就绪。"""
    old = house["old"]
    ann, bob = await register(old.base_url, "ann"), await register(newer.base_url, "bob")
    async with (
        device(old.ws_url(ann.user_id), ann) as at_old,
        device(newer.ws_url(bob.user_id), bob) as at_new,
    ):
        for _ in range(10):
            await there_and_back(old, ann, bob, at_new)
            frame = await there_and_back(newer, bob, ann, at_old)
    assert frame["shade"] == SHADE  # 旧的网关原样转发它不认识的一项
    assert old.is_ready()
    assert newer.is_ready()
    assert house.redis.xlen("dead_letter_queue") == 0


@pytest.mark.timeout(180)
async def test_what_the_older_build_does_not_know_of_it_leaves_to_the_newer(
    house: House, newer: ServerProcess
) -> None:
    old = house["old"]
    ann = await register(old.base_url, "leah")
    async with device(old.ws_url(ann.user_id), ann) as phone:
        sent = set()

        async def left_one() -> bool:
            sent.add(await send(newer.base_url, ann, [ann]))
            return "entry_of_another_version" in old.output

        await eventually(left_one, 60)
        assert {(await phone.next_message(60))["message_id"] for _ in sent} == sent
    assert house.redis.xlen("dead_letter_queue") == 0


@pytest.mark.timeout(180)
async def test_the_schema_is_one_step_newer_and_an_old_program_still_starts(
    house: House, newer: ServerProcess
) -> None:
    database = Database(house.database_url)
    assert await database.schema_version() == NEXT_HEAD
    await database.dispose()
    again = house.start()
    ann = await register(again.base_url, "nora")
    async with device(again.ws_url(ann.user_id), ann) as phone:
        await there_and_back(again, ann, ann, phone)
        await there_and_back(newer, ann, ann, phone)
    assert await asyncio.to_thread(again.terminate) == 0


@pytest.mark.timeout(180)
async def test_a_status_only_the_newer_build_knows_is_shown_as_it_is(
    house: House, newer: ServerProcess
) -> None:
    """收件箱、投递状态、统计照样答，不是 500。"""
    old = house["old"]
    ann = await register(old.base_url, "mona")
    message_id = await send(old.base_url, ann, [ann])
    database = Database(house.database_url)
    await database.change(
        text("UPDATE mp_message_recipients SET status = 'parked' WHERE message_id = :id"),
        {"id": message_id},
    )
    await database.dispose()
    async with api_of(old.base_url, ann) as api:
        page = await api.get("/messages")
        state = await api.get(f"/messages/{message_id}/delivery")
        figures = await api.get(f"/users/{ann.user_id}/delivery-statistics")
    assert page.status_code == 200, page.text
    assert page.json()["items"][0]["message_id"] == message_id
    assert state.json()["recipients"][0]["status"] == "parked"
    assert state.json()["total"] == 1
    assert figures.status_code == 200, figures.text


def a_node(
    directory: Path, redis: RedisServer, port: int, name: str, source: Path | None = None
) -> ServerProcess:
    """几个共用一个端口的之一；还没有启动。"""
    settings = {**SHARED, "reuse_port": True, "key_prefix": "roll:"}
    one = ServerProcess(
        directory,
        *("--port", str(port)),
        redis_url=redis.url,
        settings=settings,
        source=source,
    )
    one.port, one.log = port, directory / f"{name}.log"
    return one


def says_serving(node: ServerProcess) -> Callable[[], bool]:
    """端口是共用的，``/readyz`` 说的也许是别人。"""
    return lambda: " serving" in node.output


@contextlib.contextmanager
def serving(*nodes: ServerProcess) -> Iterator[None]:
    """一个起来了再起下一个。"""
    with contextlib.ExitStack() as undo:
        for node in nodes:
            undo.callback(node.stop)
            node.launch()
            wait_until(says_serving(node), 60)
        yield


@pytest.mark.timeout(300)
async def test_a_rolling_restart_into_the_next_build_loses_nothing(
    tmp_path: Path, source: Path, house: House
) -> None:
    """两个旧的换成两个新的，一个接一个，一直在发：每台设备每条恰一次。"""
    port, redis = free_port(), house.redis_server
    old = [a_node(tmp_path, redis, port, f"old-{n}") for n in range(2)]
    new = [a_node(tmp_path, redis, port, f"new-{n}", source) for n in range(2)]
    with contextlib.ExitStack() as undo:
        undo.enter_context(serving(*old))
        url = old[0].base_url
        sender = await register(url, "sender")
        people = [await register(url, f"user-{n}") for n in range(3)]
        devices = [SdkDevice(url, person) for person in people for _ in range(2)]
        load = Load(url, sender, people)

        async def a_round() -> None:
            before = min(map(len, load.sent.values()))
            await eventually(lambda: min(map(len, load.sent.values())) > before + 2, 60)

        async with running(*devices):
            await eventually(lambda: all(d.client.connected.is_set() for d in devices), 60)
            async with running(load) as [sending]:
                await a_round()
                for leaving, coming in zip(old, new, strict=True):
                    undo.callback(coming.stop)
                    coming.launch()
                    await eventually(says_serving(coming), 60)
                    await a_round()
                    assert await asyncio.to_thread(leaving.terminate) == 0
                    await a_round()
                assert not sending.done()
            owed = [load.sent[person.user_id] for person in people for _ in range(2)]

            def all_here() -> bool:
                pairs = zip(devices, owed, strict=True)
                return all(one.received.keys() >= sent for one, sent in pairs)

            await eventually(all_here, 60)
            assert all(max(one.received.values()) == 1 for one in devices)
    assert house.redis.xlen("roll:dead_letter_queue") == 0
