"""推了没有确认：真的服务器、别人的客户端，一分钟缩成半秒。"""

from __future__ import annotations

import pytest

from tests.support.eventually import eventually
from tests.support.house import House
from tests.support.people import Person, api_of, device, register, send
from tests.support.server_process import ServerProcess

from .looking import dead_letters, failures, mailbox_size, read_attempts, state_of, until

pytestmark = pytest.mark.timeout(240)


async def test_dlv_3_an_unacked_message_comes_again_three_times_with_its_seq_then_fails(
    server: ServerProcess, admin: Person, house: House, alice: Person, bob: Person
) -> None:
    async with (
        device(server.ws_url(bob.user_id), bob) as phone,
        device(server.ws_url(alice.user_id), alice) as sender,
    ):
        message_id = await send(server.base_url, alice, [bob], receipt=True)
        assert await read_attempts(phone, 4) == [(0, 1), (1, 1), (2, 1), (3, 1)]
        await until(server, alice, message_id, "failed")
        state = await state_of(server, alice, message_id)
        assert (state["attempts"], state["failure_reason"]) == (3, "no_ack")
        assert state["failed_at"] is not None
        [failure] = await failures(server, admin, bob)
        assert (failure["message_id"], failure["user_id"]) == (message_id, bob.user_id)
        assert mailbox_size(house, bob) == 0
        assert len(dead_letters(house, message_id)) == 1
        await eventually(lambda: any(frame["type"] == "receipt" for frame in sender.others))
        [receipt] = [frame for frame in sender.others if frame["type"] == "receipt"]
        assert (receipt["message_id"], receipt["status"]) == (message_id, "failed")
        assert not phone.has_message()


async def test_two_gateways_retry_once_for_each_attempt(
    server: ServerProcess, second: ServerProcess, alice: Person, bob: Person
) -> None:
    async with (
        device(server.ws_url(bob.user_id), bob) as phone,
        device(second.ws_url(bob.user_id), bob) as laptop,
    ):
        message_id = await send(server.base_url, alice, [bob])
        expected = [(0, 1), (1, 1), (2, 1), (3, 1)]
        assert await read_attempts(phone, 4) == expected
        assert await read_attempts(laptop, 4) == expected
        await until(server, alice, message_id, "failed")
        for one in (phone, laptop):
            await one.round_trip()
            assert not one.has_message()


async def test_a_retry_that_is_acked_is_delivered(
    server: ServerProcess, alice: Person, bob: Person
) -> None:
    async with device(server.ws_url(bob.user_id), bob) as phone:
        message_id = await send(server.base_url, alice, [bob])
        await read_attempts(phone, 2)
        await phone.ack(message_id)
        await until(server, alice, message_id, "delivered")
        assert (await state_of(server, alice, message_id))["attempts"] == 1


async def test_what_one_device_acked_is_not_retried_to_the_other(
    server: ServerProcess, second: ServerProcess, alice: Person, bob: Person
) -> None:
    async with (
        device(server.ws_url(bob.user_id), bob) as phone,
        device(second.ws_url(bob.user_id), bob) as laptop,
    ):
        message_id = await send(server.base_url, alice, [bob])
        await phone.next_message()
        await phone.ack(message_id)
        await until(server, alice, message_id, "delivered")
        assert await read_attempts(laptop, 1) == [(0, 1)]
        # 第二条的重试来了：第一条若会重试，早该在它之前
        other = await send(server.base_url, alice, [bob])
        frames = [await laptop.next_message() for _ in range(2)]
        assert [frame["message_id"] for frame in frames] == [other, other]


async def test_dlv_4_a_late_ack_wins_over_failed(
    server: ServerProcess, admin: Person, house: House, alice: Person, bob: Person
) -> None:
    async with device(server.ws_url(bob.user_id), bob) as phone:
        message_id = await send(server.base_url, alice, [bob])
        await read_attempts(phone, 4)
        await until(server, alice, message_id, "failed")
        await phone.ack(message_id)
        await until(server, alice, message_id, "delivered")
        state = await state_of(server, alice, message_id)
        assert (state["failed_at"], state["failure_reason"]) == (None, None)
    assert await failures(server, admin, bob) == []
    assert dead_letters(house, message_id) == []


async def test_dlv_1_a_failed_delivery_is_requeued_and_delivered(
    server: ServerProcess, admin: Person, house: House, alice: Person, bob: Person
) -> None:
    async with device(server.ws_url(bob.user_id), bob) as phone:
        message_id = await send(server.base_url, alice, [bob])
        await read_attempts(phone, 4)
        await until(server, alice, message_id, "failed")
        path = f"/deliveries/failures/{message_id}/{bob.user_id}/requeue"
        async with api_of(server.base_url, admin) as api:
            assert (await api.post(path)).status_code == 204
        frame = await phone.next_message()
        assert (frame["message_id"], frame["attempt"], frame["seq"]) == (message_id, 0, 2)
        state = await state_of(server, alice, message_id)
        assert state["status"] == "pending"
        assert state["attempts"] < 3  # 从头数起；慢的时候又重试过了
        async with api_of(server.base_url, admin) as api:
            again = await api.post(path)
            assert (again.status_code, again.json()["error"]["code"]) == (404, "not_found")
        await phone.ack(message_id)
        await until(server, alice, message_id, "delivered")
    assert dead_letters(house, message_id) == []


async def test_a_gateway_killed_between_retries_leaves_it_to_the_mailbox(
    house: House, server: ServerProcess, alice: Person, bob: Person
) -> None:
    doomed = house.start("gateway")
    async with device(doomed.ws_url(bob.user_id), bob) as phone:
        message_id = await send(server.base_url, alice, [bob])
        assert await read_attempts(phone, 2) == [(0, 1), (1, 1)]
        doomed.kill()
    async with device(server.ws_url(bob.user_id), bob) as phone:
        # 补发说 attempt 0；这个网关从 Redis 得知已推到第几次，接着数
        assert await read_attempts(phone, 2) == [(0, 1), (2, 1)]
        await phone.ack(message_id)
        await until(server, alice, message_id, "delivered")


async def test_who_is_not_connected_is_never_retried(
    server: ServerProcess, house: House, alice: Person, bob: Person
) -> None:
    carol = await register(server.base_url, f"{bob.name}-carol")
    waiting = await send(server.base_url, alice, [bob])
    async with device(server.ws_url(carol.user_id), carol) as phone:
        failing = await send(server.base_url, alice, [carol])
        await read_attempts(phone, 4)
        await until(server, alice, failing, "failed")
    state = await state_of(server, alice, waiting)
    assert (state["status"], state["attempts"]) == ("pending", 0)
    assert mailbox_size(house, bob) == 1
