"""真的服务器（或 ``SDK_SERVER`` 指的那一个）× 每一个 SDK × WebSocket 与 SSE：只经 REST 看结果。"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.support.accounts import sign
from tests.support.eventually import eventually
from tests.support.people import Person, api_of, delivery, register, send
from tests.support.server_process import ServerProcess

from .adapter import Sdk

pytestmark = pytest.mark.timeout(240)

ELSEWHERE = os.environ.get("SDK_SERVER", "")
ours = pytest.mark.skipif(bool(ELSEWHERE), reason="needs the signing key of the server")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if ELSEWHERE:
        yield ELSEWHERE
        return
    with ServerProcess(tmp_path_factory.mktemp("server")) as process:
        yield process.base_url


@pytest.fixture
async def person(url: str) -> Person:
    return await register(url, f"user-{uuid4().hex[:12]}")


async def delivered(url: str, person: Person, message: str) -> None:
    async def settled() -> bool:
        return bool((await delivery(url, person, message))["delivered"] == 1)

    await eventually(settled, 20)


async def test_a_message_is_pushed_handled_and_recorded_as_delivered(
    client: Sdk, url: str, person: Person
) -> None:
    client.start(url, user_id=person.user_id, token=person.token)
    await client.until("state", name="connected", transport=client.way)
    message = await send(url, person, [person], title="hello")
    assert (await client.until("message"))["title"] == "hello"
    await delivered(url, person, message)


async def test_dlv_4_by_hand_it_is_pending_until_it_is_said(
    client: Sdk, url: str, person: Person
) -> None:
    client.start(url, user_id=person.user_id, token=person.token, ack="manual")
    await client.until("state", name="connected")
    message = await send(url, person, [person])
    await client.until("message", message_id=message)
    assert (await delivery(url, person, message))["pending"] == 1
    client.ack(message)
    await delivered(url, person, message)


async def test_dlv_5_who_was_away_resumes_from_his_position(
    client: Sdk, url: str, person: Person, tmp_path: Path
) -> None:
    options: dict[str, Any] = {
        "user_id": person.user_id,
        "token": person.token,
        "store": str(tmp_path / "device.json"),
    }
    client.start(url, **options)
    await client.until("state", name="connected")
    first = await send(url, person, [person])
    await client.until("message", message_id=first)
    await delivered(url, person, first)
    await client.stop()
    missed = [await send(url, person, [person]) for _ in range(3)]
    client.start(url, **options)
    for message in missed:
        await delivered(url, person, message)
    await client.stop()
    assert sorted(client.messages()) == sorted([first, *missed])


async def test_a_withdrawn_message_is_told(client: Sdk, url: str, person: Person) -> None:
    client.start(url, user_id=person.user_id, token=person.token)
    await client.until("state", name="connected")
    message = await send(url, person, [person])
    await client.until("message", message_id=message)
    async with api_of(url, person) as api:
        assert (await api.delete(f"/messages/{message}")).is_success
    await client.until("withdrawn", message_id=message)


async def test_a_wrong_token_is_the_end(client: Sdk, url: str, person: Person) -> None:
    client.start(url, user_id=person.user_id, token="no.such.token")
    end = await client.until("state", final=True)
    assert (end["code"], end["reason"]) == (4500, "invalid_token")


async def test_sec_1_the_token_of_another_is_the_end(client: Sdk, url: str, person: Person) -> None:
    client.start(url, user_id=person.user_id + 1, token=person.token)
    end = await client.until("state", final=True)
    assert (end["code"], end["reason"]) == (4501, "forbidden")


@ours
async def test_an_expired_token_is_replaced(client: Sdk, url: str, person: Person) -> None:
    client.start(url, user_id=person.user_id, token=None)
    await client.until("token", fresh=False)
    client.give(sign(person.user_id, life_s=-60))
    await client.until("token", fresh=True)
    client.give(person.token)
    await client.until("state", name="connected")
    codes = [one.get("code") for one in client.events if one["event"] == "state"]
    assert 4004 in codes


async def test_who_is_kicked_stays_away(client: Sdk, url: str, person: Person) -> None:
    client.start(url, user_id=person.user_id, token=person.token)
    await client.until("state", name="connected")
    async with api_of(url, person) as api:

        async def there() -> list[dict[str, str]]:
            answer = await api.get(f"/presence/users/{person.user_id}")
            return list(answer.json()["connections"])

        (connection,) = await eventually(there, 20)
        path = f"/presence/users/{person.user_id}/connections/{connection['connection_id']}"
        assert (await api.delete(path)).status_code == httpx.codes.NO_CONTENT
    end = await client.until("state", final=True)
    assert (end["code"], end["reason"]) == (4503, "kicked")
