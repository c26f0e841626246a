"""两个节点，共用一套 Redis 与数据库；以及一位管理员。"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from uuid import uuid4

import pytest

from meeting_push.auth.access_tokens import AccessTokens
from meeting_push.settings import load_settings
from tests.support.accounts import resident
from tests.support.house import TWINS, House, house_fixture
from tests.support.people import Frame, Person, api_of, device
from tests.support.server_process import TEST_JWT_SECRET, ServerProcess

Nodes = tuple[ServerProcess, ServerProcess]
Newcomer = Callable[[], Awaitable[Person]]
QUICK = {"relay_interval_s": 0.2}


def admin() -> Person:
    settings = load_settings(jwt_secret=TEST_JWT_SECRET).auth
    token = AccessTokens(settings, TEST_JWT_SECRET).issue(900, "admin", "root", 3600)
    return Person(900, "root", token)


async def broadcast(server: ServerProcess, **fields: object) -> str:
    """发一条，返回 message_id。"""
    async with api_of(server.base_url, admin()) as api:
        answer = await api.post("/messages/broadcast", json={"title": "t", "content": "c"} | fields)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["message_id"])


async def delivery(server: ServerProcess, message_id: str) -> Frame:
    async with api_of(server.base_url, admin()) as api:
        answer = await api.get(f"/messages/{message_id}/delivery")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


house = house_fixture(TWINS, shared=QUICK)


@pytest.fixture(scope="module")
def nodes(house: House) -> Nodes:
    return house.near, house.far


@pytest.fixture
def newcomer(house: House, nodes: Nodes) -> Newcomer:
    """一个没连过的新用户。"""

    async def one() -> Person:
        return await resident(house.database_url, f"u{uuid4().hex[:12]}")

    return one


@pytest.fixture
async def bob(nodes: Nodes, newcomer: Newcomer) -> Person:
    """连过一次的用户：此后的广播都是他的。"""
    person = await newcomer()
    await visit(nodes[0], person)
    return person


async def visit(server: ServerProcess, person: Person) -> None:
    async with device(server.ws_url(person.user_id), person):
        pass
