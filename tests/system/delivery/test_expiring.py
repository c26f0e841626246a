"""过期：在每一站都一样，最后都记为 expired。"""

from __future__ import annotations

import asyncio

import pytest

from tests.support.eventually import eventually
from tests.support.house import House, house_fixture
from tests.support.people import Person, device, send
from tests.support.server_process import ServerProcess

from .conftest import QUICK
from .looking import dead_letters, failures, mailbox_size, state_of, until

pytestmark = pytest.mark.timeout(240)

house = house_fixture({}, shared=QUICK, engines=("own", "own-sentinel", "own-cluster"))


async def test_dlv_1_a_message_nobody_fetched_expires(
    house: House, server: ServerProcess, alice: Person, bob: Person
) -> None:
    async with device(server.ws_url(alice.user_id), alice) as sender:
        message_id = await send(server.base_url, alice, [bob], expires_in_s=1, receipt=True)
        await eventually(lambda: mailbox_size(house, bob) == 1)
        await until(server, alice, message_id, "expired")
        await eventually(lambda: any(frame["type"] == "receipt" for frame in sender.others))
        [receipt] = [frame for frame in sender.others if frame["type"] == "receipt"]
        assert (receipt["message_id"], receipt["status"]) == (message_id, "expired")
    await eventually(lambda: mailbox_size(house, bob) == 0)
    gap = {"type": "gap", "from_seq": 1, "to_seq": 1, "count": 1, "reason": "expired"}
    async with device(server.ws_url(bob.user_id), bob) as phone:
        assert phone.welcome["pending"] == 0
        await phone.round_trip()
        assert (phone.has_message(), phone.others) == (False, [gap])
    position = {"epoch": phone.welcome["epoch"], "last_seq": 1}
    async with device(server.ws_url(bob.user_id, **position), bob) as phone:
        await phone.round_trip()
        assert (phone.welcome["resumed"], phone.others) == (True, [])


async def test_an_unacked_push_that_expires_is_expired_not_failed(
    house: House, server: ServerProcess, admin: Person, alice: Person, bob: Person
) -> None:
    async with device(server.ws_url(bob.user_id), bob) as phone:
        message_id = await send(server.base_url, alice, [bob], expires_in_s=1)
        await phone.next_message()
        await until(server, alice, message_id, "expired")
    assert await failures(server, admin, bob) == []
    assert dead_letters(house, message_id) == []


async def test_dlv_4_an_ack_that_comes_after_the_expiry_still_counts(
    server: ServerProcess, alice: Person, bob: Person
) -> None:
    async with device(server.ws_url(bob.user_id), bob) as phone:
        message_id = await send(server.base_url, alice, [bob], expires_in_s=1)
        await phone.next_message()
        await until(server, alice, message_id, "expired")
        await phone.ack(message_id)
        await until(server, alice, message_id, "delivered")
    async with device(server.ws_url(bob.user_id), bob) as phone:
        await phone.round_trip()
        assert phone.others == []


async def test_a_delivered_message_does_not_expire(
    server: ServerProcess, alice: Person, bob: Person
) -> None:
    async with device(server.ws_url(bob.user_id), bob) as phone:
        message_id = await send(server.base_url, alice, [bob], expires_in_s=1)
        await phone.next_message()
        await phone.ack(message_id)
        other = await send(server.base_url, alice, [bob], expires_in_s=1)
        await until(server, alice, other, "expired")
    assert (await state_of(server, alice, message_id))["status"] == "delivered"


async def test_what_expires_in_the_outbox_is_never_enqueued(
    house: House, server: ServerProcess, alice: Person, bob: Person
) -> None:
    house.kill_redis()
    message_id = await send(server.base_url, alice, [bob], expires_in_s=1)
    await asyncio.sleep(1.2)  # 它的有效期只能用墙上的时钟等
    house.start_redis()
    await until(server, alice, message_id, "expired")
    assert house.redis.exists(house.keys.delivery_status(message_id)) == 0
    assert mailbox_size(house, bob) == 0
