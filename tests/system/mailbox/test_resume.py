"""续传的各个边界，从外面看：之后的一切按次序，或明说的 resync。"""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.eventually import eventually
from tests.support.people import Device, Person, delivery, device
from tests.support.server_process import ServerProcess

from .conftest import evicted, gaps, sent

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
async def epoch(server: ServerProcess, bob: Person) -> str:
    async with device(server.ws_url(bob.user_id), bob) as phone:
        return str(phone.welcome["epoch"])


async def acked(server: ServerProcess, alice: Person, bob: Person, ids: list[str]) -> None:
    """另一台设备收下并确认 ``ids``。"""
    async with device(server.ws_url(bob.user_id), bob) as laptop:
        await laptop.ack(*ids)

        async def recorded() -> bool:
            return bool((await delivery(server.base_url, alice, ids[-1]))["delivered"])

        await eventually(recorded)


async def resync(phone: Device) -> dict[str, Any]:
    [frame] = await eventually(lambda: [f for f in phone.others if f["type"] == "resync"])
    return dict(frame)


async def test_everything_after_the_position_in_order(
    server: ServerProcess, alice: Person, bob: Person, epoch: str
) -> None:
    ids = await sent(server, alice, bob, 3)
    async with device(server.ws_url(bob.user_id, epoch=epoch, last_seq=0), bob) as phone:
        frames = [await phone.next_message() for _ in ids]
    assert phone.welcome["resumed"]
    assert [(f["seq"], f["message_id"]) for f in frames] == list(enumerate(ids, 1))


async def test_what_another_device_acked_is_still_replayed(
    server: ServerProcess, alice: Person, bob: Person, epoch: str
) -> None:
    ids = await sent(server, alice, bob, 3)
    await acked(server, alice, bob, ids)
    async with device(server.ws_url(bob.user_id, epoch=epoch, last_seq=1), bob) as phone:
        assert [(await phone.next_message())["message_id"] for _ in range(2)] == ids[1:]
    async with device(server.ws_url(bob.user_id), bob) as fresh:
        await fresh.round_trip()
        assert fresh.welcome["pending"] == 0


async def test_two_devices_resume_from_their_own_positions(
    server: ServerProcess, alice: Person, bob: Person, epoch: str
) -> None:
    ids = await sent(server, alice, bob, 3)
    await acked(server, alice, bob, ids)
    url = server.ws_url
    async with (
        device(url(bob.user_id, epoch=epoch, last_seq=2), bob) as phone,
        device(url(bob.user_id, epoch=epoch, last_seq=0), bob) as laptop,
    ):
        assert (await phone.next_message())["message_id"] == ids[2]
        assert [(await laptop.next_message())["message_id"] for _ in ids] == ids


async def test_a_log_trimmed_past_the_position_is_a_resync(
    server: ServerProcess, alice: Person, bob: Person, epoch: str
) -> None:
    ids = await sent(server, alice, bob, 32)  # 日志留 16 条，每 16 条裁一次
    await evicted(server, alice, ids[-4:-3], bob)
    async with device(server.ws_url(bob.user_id, epoch=epoch, last_seq=15), bob) as phone:
        told = await resync(phone)
        assert [(await phone.next_message())["message_id"] for _ in range(3)] == ids[-3:]
        [gap] = await gaps(phone)
    assert (told["reason"], told["epoch"], told["seq"]) == ("too_far_behind", epoch, 32)
    assert (gap["from_seq"], gap["to_seq"], gap["count"]) == (1, 29, 29)


@pytest.mark.parametrize("last_seq", [2, 10**15])
async def test_a_position_in_the_future_is_a_resync(
    server: ServerProcess, alice: Person, bob: Person, epoch: str, last_seq: int
) -> None:
    [message_id] = await sent(server, alice, bob, 1)
    async with device(server.ws_url(bob.user_id, epoch=epoch, last_seq=last_seq), bob) as phone:
        assert (await resync(phone))["reason"] == "epoch_changed"
        assert (await phone.next_message())["message_id"] == message_id


async def test_another_epoch_is_a_resync(
    server: ServerProcess, alice: Person, bob: Person, epoch: str
) -> None:
    [message_id] = await sent(server, alice, bob, 1)
    async with device(server.ws_url(bob.user_id, epoch="other", last_seq=0), bob) as phone:
        told = await resync(phone)
        assert (told["reason"], told["epoch"]) == ("epoch_changed", epoch)
        assert (await phone.next_message())["message_id"] == message_id


async def test_up_to_date_is_resumed_with_nothing(
    server: ServerProcess, alice: Person, bob: Person, epoch: str
) -> None:
    ids = await sent(server, alice, bob, 2)
    await acked(server, alice, bob, ids)
    async with device(server.ws_url(bob.user_id, epoch=epoch, last_seq=2), bob) as phone:
        await phone.round_trip()
        assert (phone.welcome["resumed"], phone.welcome["pending"]) == (True, 0)
        assert not phone.has_message()
