"""B1，从外面看：一个人的键被别人写坏，别人的照常。"""

from __future__ import annotations

import pytest
from websockets.exceptions import ConnectionClosed

from tests.support.house import House
from tests.support.people import Person, device, send
from tests.support.server_process import ServerProcess

from .looking import until

pytestmark = pytest.mark.timeout(240)


async def test_b1_others_acks_are_recorded_within_a_second(
    server: ServerProcess, house: House, alice: Person, bob: Person
) -> None:
    async with (
        device(server.ws_url(alice.user_id), alice) as hers,
        device(server.ws_url(bob.user_id), bob) as his,
    ):
        spoiled = await send(server.base_url, alice, [alice])
        await hers.next_message()
        status = house.keys.delivery_status(spoiled)
        house.redis.delete(status)
        house.redis.set(status, "x")
        await hers.ack(spoiled)
        good = await send(server.base_url, alice, [bob])
        await his.next_message()
        await his.ack(good)
        await until(server, alice, good, "delivered", timeout=1)
        await until(server, alice, spoiled, "delivered")


@pytest.mark.parametrize("key", ["offline_messages", "user_seq", "user_slots", "broadcast_cursor"])
async def test_b1_a_spoiled_key_keeps_only_its_owner_out(
    server: ServerProcess, house: House, alice: Person, bob: Person, key: str
) -> None:
    """他的连接以 4007 关闭（修好了就连得上），别人照常；没有回溯。"""
    name = f"{house.keys.prefix}{key}:{{{bob.user_id}}}"
    house.redis.set(name, "x")
    with pytest.raises(ConnectionClosed) as closed:
        async with device(server.ws_url(bob.user_id), bob):
            pass
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4007
    async with device(server.ws_url(alice.user_id), alice) as hers:
        message_id = await send(server.base_url, alice, [alice])
        assert (await hers.next_message())["message_id"] == message_id
    house.redis.delete(name)
    async with device(server.ws_url(bob.user_id), bob):
        pass
    assert "Traceback" not in server.output
