"""对账（DLV-1），从一台一直在线的设备看。"""

from __future__ import annotations

from pathlib import Path

from redis import Redis

from tests.support.eventually import eventually
from tests.support.people import delivery, device, register, send
from tests.support.redis_server import RedisServer
from tests.support.server_process import ServerProcess


async def test_dlv_1_a_live_device_hears_of_the_loss_and_gets_what_it_has_not_had(
    private_redis_server: RedisServer, tmp_path: Path
) -> None:
    settings = {"reconcile_interval_s": 0.1}
    with ServerProcess(tmp_path, redis_url=private_redis_server.url, settings=settings) as server:
        alice, bob = (
            await register(server.base_url, "alice"),
            await register(server.base_url, "bob"),
        )
        async with device(server.ws_url(bob.user_id), bob) as phone:
            acked = await send(server.base_url, alice, [bob])
            assert (await phone.next_message())["message_id"] == acked
            await phone.ack(acked)

            async def recorded() -> bool:
                return bool((await delivery(server.base_url, alice, acked))["delivered"])

            await eventually(recorded)
            with Redis.from_url(private_redis_server.url) as redis:
                redis.flushall()
            later = await send(server.base_url, alice, [bob])
            assert (await phone.next_message(20))["message_id"] == later
            await eventually(lambda: [f for f in phone.others if f["type"] == "resync"], 20)
            [resync] = [f for f in phone.others if f["type"] == "resync"]
            assert resync["reason"] == "epoch_changed"
            assert resync["epoch"] != phone.welcome["epoch"]
