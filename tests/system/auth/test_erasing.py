"""抹掉一个人：真的用过各种功能之后，翻遍 SQL 与 Redis；做到一半 ``kill -9``；两个节点。"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any
from uuid import uuid4

import httpx
import pytest
from redis import Redis
from sqlalchemy import insert, select

from meeting_push.storage.database import Database
from meeting_push.storage.operations_tables import alert_notes
from meeting_push.storage.tables import erasures, users
from tests.support.accounts import sign
from tests.support.eventually import eventually
from tests.support.house import House
from tests.support.meetings import hold, recorder
from tests.support.meetings import live as attending
from tests.support.people import Device, Person, api_of, device, send
from tests.support.traces import in_redis, in_sql

from .test_accounts import code_of, user_command
from .visitors import Lines, post, rest_code

pytestmark = pytest.mark.timeout(300)

GONE = 4502
#: 留着的只有这两行：她的号不再给别人。
KEPT = ("mp_erased_people.user_id", "mp_revocations.user_id")


class Alice:
    """一个用遍了一切的人；``words`` 是她写过的，``name`` 与号都认得出来，都从 ``mark`` 来。"""

    def __init__(self, house: House, mark: str) -> None:
        self.house = house
        self.mark = mark
        self.user_id = 4_000_000_000_000_000 + int(mark, 16) % 10**15
        self.name = f"alice-{mark}"
        self.words = f"words-of-{mark}"
        self.person = Person(self.user_id, self.name, sign(self.user_id, self.name))
        self.database = Database(house.settings.sql_url)
        self.redis = Redis.from_url(house.redis_server.url)

    async def join(self) -> None:
        row = {"id": self.user_id, "username": self.name, "username_key": self.name}
        async with self.database.transaction() as connection:
            await connection.execute(
                insert(users), {**row, "password_hash": "-", "role": "user", "created_at": 1}
            )

    async def traces(self) -> list[str]:
        needles = (str(self.user_id), self.name, self.words)
        found = await in_sql(self.database, *needles)
        found += await asyncio.to_thread(in_redis, self.redis, *needles)
        return [one for one in found if not one.startswith(KEPT)]

    async def is_gone(self) -> bool:
        """名字留到最后一刻：它还在就不必翻遍一切。"""
        e = erasures.c
        name = select(e.name).where(e.user_id == self.user_id)
        [[left]] = await self.database.rows(name)
        return left is None and not await self.traces()

    async def vanishes(self) -> None:
        """机器忙，给的比承诺的宽。"""
        try:
            await eventually(self.is_gone, 120)
        except AssertionError:
            raise AssertionError(await self.traces()) from None

    async def aclose(self) -> None:
        await self.database.dispose()
        self.redis.close()


@pytest.fixture(scope="module")
def erased(house: House) -> list[str]:
    """抹掉了的各个 ``mark``：末了一起看，不各等各的一遍。"""
    return []


@pytest.fixture
async def alice(house: House) -> AsyncIterator[Alice]:
    one = Alice(house, uuid4().hex[:12])
    await one.join()
    yield one
    await one.aclose()


async def erase(house: House, user_id: int) -> httpx.Response:
    root = await house.admin()
    async with api_of(house.near.base_url, root) as api:
        return await api.delete(f"/users/{user_id}")


async def read_all(phone: Device, count: int) -> None:
    for _ in range(count):
        await phone.ack((await phone.next_message())["message_id"])


async def live(house: House, alice: Alice, bob: Person, carol: Person) -> str:
    """她收、发、开会、设备来去；返回她发给 bob 的一条。"""
    she, near, far = alice.person, house.near.base_url, house.far.base_url
    long = f"{alice.words} " * 400  # 压缩了存着
    tomorrow = int(time.time() * 1000) + 86_400_000
    async with (
        device(house.far.ws_url(she.user_id), she) as phone,
        device(house.near.ws_url(bob.user_id), bob) as his,
    ):
        await send(near, bob, [she, carol], title="to her", receipt=True)
        await read_all(phone, 1)
        sent = await send(near, she, [bob], title=alice.words, content=long, receipt=True)
        await read_all(his, 1)
        async with api_of(far, await house.admin()) as api:
            await api.post("/messages/broadcast", json={"title": "all", "content": ""})
        await read_all(phone, 1)
        await phone.round_trip()
    await send(far, bob, [she, carol], title="waits for her")
    await send(far, bob, [she], title="to her alone", deliver_at=tomorrow)
    await send(far, bob, [she, carol], title="to both", deliver_at=tomorrow)
    await send(far, she, [bob, carol], title=alice.words, deliver_at=tomorrow)
    async with api_of(near, she) as api:
        body = {"recipient_ids": [carol.user_id], "title": alice.words, "data": {"x": long}}
        body["content"] = ""
        await api.post("/messages", json=body, headers={"idempotency-key": "k"})
    await speak(house, alice, bob)
    await remember(alice, bob)
    return sent


async def speak(house: House, alice: Alice, bob: Person) -> None:
    """她召开的、她受邀的各一场；识别器替她记的也是她的话。"""
    she = alice.person
    for organizer, other in ((she, bob), (bob, she)):
        title = alice.words if organizer is she else "bob's"
        meeting_id = await hold(house.near, organizer, other, title=title)
        for who, more in ((she, {}), (recorder(), {"speaker": alice.name})):
            said = {"text": alice.words, "start_ms": 0, "end_ms": 1, **more}
            async with attending(house.far, who, meeting_id) as line:
                answer = await line.ask("segment", type="segment", **said)
                assert answer["type"] == "segment", answer


async def remember(alice: Alice, bob: Person) -> None:
    """平常不容易造出来的：满过的信箱、死信、告警上的备注。"""
    prefix = alice.house.settings.redis.key_prefix
    senders = json.dumps({"1": [alice.user_id, 0]}, separators=(",", ":"))
    alice.redis.set(f"{prefix}mailbox_senders:{{{bob.user_id}}}", senders)
    for to in ([alice.user_id], [alice.user_id, bob.user_id]):
        entry = {"message_id": "0" * 26, "recipient_ids": to, "priority": 0, "expires_at": 1}
        letter: dict[Any, Any] = {
            "v": "1",
            "entry": json.dumps(entry),
            "reason": "body_gone",
            "queue": "q",
        }
        alice.redis.xadd(f"{prefix}dead_letter_queue", letter)
    note = {"note_id": uuid4().hex[:26], "alert_id": "a", "author": alice.name, "at": 1}
    async with alice.database.transaction() as connection:
        await connection.execute(insert(alert_notes), {**note, "text": alice.words})


async def test_her_devices_are_closed_everywhere_and_no_token_helps(
    house: House, alice: Alice, lines: Lines
) -> None:
    she = alice.person
    here, there = await lines.open(house.near, she), await lines.open(house.far, she)
    await erase(house, alice.user_id)
    assert set(await asyncio.gather(here.closed(), there.closed())) == {GONE}
    await eventually(lambda: _is_erased(house, alice))
    later = sign(alice.user_id, alice.name)  # 签于之后
    assert await rest_code(house.far, later) == "revoked"
    assert await lines.code(house.far.ws_url(alice.user_id), later) == GONE


async def _is_erased(house: House, alice: Alice) -> bool:
    """远处的节点已从记录里知道。"""
    return await rest_code(house.far, sign(alice.user_id, life_s=7200)) == "revoked"


async def test_nobody_can_send_to_her_any_more(
    house: House, alice: Alice, erased: list[str]
) -> None:
    bob, carol = await house.people(2)
    for node in (house.near, house.far):  # 都记得她在
        await send(node.base_url, bob, [alice.person])
    await erase(house, alice.user_id)
    letter = {"recipient_ids": [alice.user_id, carol.user_id], "title": "t", "content": ""}

    async def is_unknown(node: Any) -> bool:
        answer = await post(node, "/messages", bob.token, letter)
        return answer.status_code == 422 and code_of(answer)[1] == "unknown_recipients"

    for node in (house.near, house.far):
        await eventually(partial(is_unknown, node))
    erased.append(alice.mark)


async def test_only_administrators_erase_and_only_whom_there_is(house: House, alice: Alice) -> None:
    bob, _ = await house.people(2)
    async with api_of(house.near.base_url, bob) as api:
        assert (await api.delete(f"/users/{alice.user_id}")).status_code == 403
        assert (await api.delete("/users/me")).status_code in (403, 422)
    assert (await erase(house, 8_999_999_999_999_999)).status_code == 404
    for _ in range(2):
        assert (await erase(house, alice.user_id)).status_code == 204


async def test_by_the_command_line_as_well(
    house: House, alice: Alice, erased: list[str], lines: Lines
) -> None:
    line = await lines.open(house.far, alice.person)
    assert await user_command(house, "delete", alice.name) == str(alice.user_id)
    assert await line.closed() == GONE
    erased.append(alice.mark)


async def test_killed_in_the_middle_the_next_one_ends_it(
    house: House, alice: Alice, erased: list[str]
) -> None:
    """两个节点轮流 ``kill -9``：谁做着都一样；做完了没有，末一个测试看。"""
    bob, carol = await house.people(2)
    await live(house, alice, bob, carol)
    await erase(house, alice.user_id)
    for name in ("near", "far"):
        server = house[name]
        server.kill()
        server.start()  # 不在别的线程里：它随创建它的线程消失，而后面的测试还要它
    erased.append(alice.mark)


async def test_nothing_of_her_is_left_within_a_minute(
    house: House, alice: Alice, erased: list[str]
) -> None:
    """她，与前面各个测试里抹掉的：被拒的、命令行抹的、做到一半 ``kill -9`` 的。"""
    bob, carol = await house.people(2)
    sent = await live(house, alice, bob, carol)
    assert len(await alice.traces()) > 20
    answer = await erase(house, alice.user_id)
    assert (answer.status_code, answer.content) == (204, b"")
    started = time.monotonic()
    await alice.vanishes()
    print(f"gone after {time.monotonic() - started:.1f} s")
    for mark in erased:
        async with contextlib.aclosing(Alice(house, mark)) as other:
            await other.vanishes()
    async with api_of(house.far.base_url, bob) as api:
        left = (await api.get(f"/messages/{sent}")).json()
        inbox = (await api.get("/messages")).json()["items"]
    assert (left["title"], left["content"]) == ("", "")
    assert left["sender"] == {"id": 0, "name": ""}
    assert left["data"] == {"event": "message_erased"}
    assert sent in [one["message_id"] for one in inbox]
