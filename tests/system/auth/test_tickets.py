"""WebSocket 票据：只用一次、只活片刻、带着令牌的一切。"""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.support.house import House
from tests.support.people import Person
from tests.support.redis_server import RedisServer
from tests.support.server_process import ServerProcess

from .visitors import Lines, post, stranger

INVALID = 4500


async def ticket_of(server: ServerProcess, person: Person) -> str:
    answer = await post(server, "/auth/ws-ticket", person.token)
    assert answer.status_code == 200, answer.text
    assert 0 < answer.json()["expires_in_s"] <= 60
    return str(answer.json()["ticket"])


async def test_a_ticket_opens_one_socket_on_any_node(house: House, lines: Lines) -> None:
    alice = stranger(801_001)
    url = house.far.ws_url(alice.user_id, ticket=await ticket_of(house.near, alice))
    line = await lines.knock(url)
    assert (await line.read())["type"] == "welcome"
    assert await lines.code(url) == INVALID


async def test_of_many_at_once_exactly_one_gets_in(house: House, lines: Lines) -> None:
    alice = stranger(801_002)
    url = house.near.ws_url(alice.user_id, ticket=await ticket_of(house.near, alice))
    codes = await asyncio.gather(*(lines.code(url) for _ in range(10)))
    assert sorted(codes) == [0] + [INVALID] * 9


async def test_an_unknown_ticket_is_invalid(house: House, lines: Lines) -> None:
    assert await lines.code(house.near.ws_url(1, ticket="nonsense")) == INVALID


async def test_the_ticket_of_another_user_is_forbidden(house: House, lines: Lines) -> None:
    ticket = await ticket_of(house.near, stranger(801_003))
    assert await lines.code(house.near.ws_url(801_004, ticket=ticket)) == 4501


async def test_the_socket_expires_with_the_token_of_the_ticket(house: House, lines: Lines) -> None:
    alice = stranger(801_005)
    by_token = await lines.open(house.near, alice)
    ticket = await ticket_of(house.near, alice)
    by_ticket = await (await lines.knock(house.near.ws_url(alice.user_id, ticket=ticket))).read()
    assert by_ticket["token_expires_at"] == by_token.welcome["token_expires_at"]


async def test_revoking_the_token_revokes_its_ticket(house: House, lines: Lines) -> None:
    alice = stranger(801_006, jti="t")
    ticket = await ticket_of(house.near, alice)
    await post(house.near, "/auth/logout", alice.token)
    assert await lines.code(house.near.ws_url(alice.user_id, ticket=ticket)) == 4502


async def test_without_redis_a_ticket_is_nobodys_fault(
    tmp_path: Path, private_redis_server: RedisServer, lines: Lines
) -> None:
    with ServerProcess(tmp_path, redis_url=private_redis_server.url) as server:
        alice = stranger(7)
        ticket = await ticket_of(server, alice)
        private_redis_server.kill()
        assert await lines.code(server.ws_url(7, ticket=ticket)) == 4007
        answer = await post(server, "/auth/ws-ticket", alice.token)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "redis_unavailable")
