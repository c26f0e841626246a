"""主换了：连着旧的不等自己发现，当场到新的去；池也是。"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest
from redis.exceptions import ResponseError

from meeting_push.redis.address import RedisAddress
from meeting_push.redis.keys import Keys
from meeting_push.redis.redis_service import RedisService
from meeting_push.redis.subscriber import Subscriber
from meeting_push.redis.switches import SwitchWatch
from tests.support.eventually import eventually
from tests.support.ports import free_port
from tests.support.redis_server import find_redis7
from tests.support.sentinels import SERVICE, SentinelSite

#: 没有人说的话，连接自己要等这么久才发现对方挂着。
PATIENT_S = 300.0


def asked_to_switch(site: SentinelSite) -> bool:
    """Sentinel 肯了；副本刚跟上，它还不知道的时候不肯。"""
    with site.sentinels[0].client() as sentinel, contextlib.suppress(ResponseError):
        return bool(sentinel.execute_command("SENTINEL", "FAILOVER", SERVICE))
    return False


@pytest.mark.timeout(240)
async def test_a_master_that_hangs_is_left_when_another_is_promoted(tmp_path: Path) -> None:
    binary = find_redis7()
    if binary is None:
        pytest.skip("no redis-server >= 7 on PATH")
    site = SentinelSite(binary, tmp_path, replicas=1)
    site.start()
    try:
        dead_sentinel = f"127.0.0.1:{free_port()}"  # 听不上的一个不碍事
        address = RedisAddress.parse(site.url.replace("//", f"//{dead_sentinel},"))
        redis = RedisService(address, Keys(), PATIENT_S)
        subscriber = Subscriber(address, Keys(), timeout_s=PATIENT_S)
        await redis.start()
        await redis.client.ping()
        heard = asyncio.Event()
        await subscriber.start(lambda _channel, _payload: heard.set(), lambda: None)
        await subscriber.subscribe_channel("news")
        watch = SwitchWatch(redis, 5)
        watching = asyncio.create_task(watch.run())
        await eventually(lambda: len(watch._listening) == 3, 30)

        dead = site.master
        dead.pause()
        await asyncio.to_thread(site.promoted, dead)
        await eventually(lambda: redis.reconnects == 1 and redis.lean.connected, 60)
        await eventually(lambda: subscriber.reconnects == 1 and subscriber.connected, 60)
        assert await redis.publish("news", "x") == 1
        await asyncio.wait_for(heard.wait(), 30)
        await redis.client.ping()

        dead.resume()
        site.whole()
        await eventually(lambda: asked_to_switch(site), 60)
        await eventually(lambda: redis.reconnects == 2 and redis.lean.connected, 60)
        await redis.ping()

        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await subscriber.close()
        await redis.close()
    finally:
        site.stop()
