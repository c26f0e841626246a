"""舰队自己：消息从 api 经工人到两个网关。"""

from __future__ import annotations

from tests.support.people import device, register, send

from .fleet import Fleet, becomes


async def test_a_message_reaches_a_device_on_each_gateway(fleet: Fleet) -> None:
    alice = await register(fleet.api.url, "alice")
    bob = await register(fleet.api.url, "bob")
    first, second = (one.server.ws_url(bob.user_id) for one in fleet.gateways)
    async with device(first, bob) as phone, device(second, bob) as desk:
        message_id = await send(fleet.api.url, alice, [bob])
        assert (await phone.next_message())["message_id"] == message_id
        assert (await desk.next_message())["message_id"] == message_id


def test_a_node_without_redis_is_unready_and_well_again_after(fleet: Fleet) -> None:
    gateway = fleet.gateways[0]
    with fleet.mended():
        gateway.redis.refuse()
        becomes(gateway.server, 503)
