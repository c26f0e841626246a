"""一个信箱很小的真服务器，和往里送、从里看的办法。"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.support.accounts import resident
from tests.support.eventually import eventually
from tests.support.house import House, house_fixture
from tests.support.people import Device, Person, api_of, device, send
from tests.support.server_process import ServerProcess

QUICK = {"mailbox_max_entries": 3, "message_log_max_entries": 16, "relay_interval_s": 0.1}


house = house_fixture({"main": ("all", {})}, shared=QUICK, engines=("own", "sentinel", "cluster"))


@pytest.fixture(scope="module")
def server(house: House) -> ServerProcess:
    return house["main"]


@pytest.fixture
async def alice(server: ServerProcess) -> Person:
    return await resident(server.database_url, "alice")


@pytest.fixture
async def bob(server: ServerProcess, request: pytest.FixtureRequest) -> Person:
    return await resident(server.database_url, f"bob-{abs(hash(request.node.name)) % 10**9}")


async def sent(server: ServerProcess, alice: Person, bob: Person, count: int) -> list[str]:
    """依次送进信箱（到了 SQL 与 Redis 才发下一条，所以 seq 就是次序）。"""
    ids = []
    for _ in range(count):
        ids.append(await send(server.base_url, alice, [bob]))
        await settled(server, bob, len(ids))
    return ids


async def settled(server: ServerProcess, bob: Person, seq: int) -> None:
    async def reached() -> bool:
        async with device(server.ws_url(bob.user_id), bob) as probe:
            return bool(probe.welcome["seq"] >= seq)

    await eventually(reached)


async def evicted(
    server: ServerProcess, alice: Person, message_ids: Sequence[str], bob: Person
) -> None:
    """等到这些都因为信箱满了而失败，也移出了信箱。"""

    async def done() -> bool:
        async with api_of(server.base_url, alice) as api:
            answers = [await api.get(f"/messages/{i}/delivery") for i in message_ids]
        async with api_of(server.base_url, bob) as api:
            count = (await api.get(f"/users/{bob.user_id}/offline-messages/count")).json()["count"]
        failed = all(answer.json()["failed"] for answer in answers)
        return failed and count <= QUICK["mailbox_max_entries"]

    await eventually(done)


async def gaps(phone: Device) -> list[dict[str, Any]]:
    await phone.round_trip()
    return [frame for frame in phone.others if frame["type"] == "gap"]
