"""耐久的广播，两种 edge，内嵌的 Redis：在的立即收到，不在的连上时收到，各一次，重启也一样。"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.people import Person, device, register, send
from tests.support.server_process import ServerProcess

from .conftest import QUICK, admin, broadcast, delivery, visit


@pytest.fixture(params=["native", "asgi"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServerProcess]:
    settings = {**QUICK, "edge": request.param, "drain_window_s": 0}
    with ServerProcess(tmp_path, settings=settings) as process:
        yield process


@pytest.fixture
async def people(server: ServerProcess) -> list[Person]:
    """各连过一次。"""
    persons = [await register(server.base_url, name) for name in ("alice", "bob")]
    for person in persons:
        await visit(server, person)
    return persons


async def received(server: ServerProcess, person: Person) -> list[str]:
    """连上，收下并确认积着的一切（之后的一条私信收尾）。"""
    ids = []
    async with device(server.ws_url(person.user_id), person) as phone:
        marker = await send(server.base_url, admin(), [person])
        while (frame := await phone.next_message())["message_id"] != marker:
            ids.append(frame["message_id"])
        await phone.ack(*ids, marker)
        await phone.round_trip()
    return ids


async def acked_by(server: ServerProcess, message_id: str, count: int) -> None:
    async def recorded() -> bool:
        return bool((await delivery(server, message_id))["delivered"] == count)

    await eventually(recorded)


async def test_live_on_the_next_connect_and_never_twice(
    server: ServerProcess, people: list[Person]
) -> None:
    alice, bob = people
    async with device(server.ws_url(alice.user_id), alice) as phone:
        message_id = await broadcast(server)
        assert (await phone.next_message())["message_id"] == message_id
        await phone.ack(message_id)
        await acked_by(server, message_id, 1)
    assert await received(server, bob) == [message_id]
    await acked_by(server, message_id, 2)
    for _ in range(2):
        assert [await received(server, person) for person in people] == [[], []]
        server.terminate()
        server.start()


async def test_whoever_was_away_over_a_restart_has_it_once(
    server: ServerProcess, people: list[Person]
) -> None:
    message_id = await broadcast(server)
    assert await received(server, people[0]) == [message_id]
    await acked_by(server, message_id, 1)
    server.terminate()
    server.start()
    assert [await received(server, person) for person in people] == [[], [message_id]]
