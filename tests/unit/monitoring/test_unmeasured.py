"""``MEETING_PUSH_METRICS=false``：照样送达，只是不量。"""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx

from meeting_push import MeetingPush, load_settings
from tests.support.embedded import hosted
from tests.support.eventually import eventually
from tests.support.redis_server import RedisServer


async def test_unmeasured_it_is_ready_and_looks_at_nothing(
    tmp_path: Path, redis7_server: RedisServer, key_prefix: str
) -> None:
    settings = load_settings(
        data_dir=tmp_path, redis_url=redis7_server.url, key_prefix=key_prefix, metrics=False
    )
    async with (
        hosted(MeetingPush(settings, identity="accounts")) as address,
        httpx.AsyncClient(base_url=f"http://{address}", trust_env=False) as client,
    ):

        async def ready() -> bool:
            return (await client.get("/readyz")).status_code == 200

        await eventually(ready, timeout=20)
        working = {task.get_name() for task in asyncio.all_tasks()}
    assert "loop:health" in working
    assert not working & {"loop:loop-lag", "loop:surroundings", "loop:activity", "loop:alerts"}
