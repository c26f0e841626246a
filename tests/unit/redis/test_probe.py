"""启动时试权限：别的节点正忙着，也不误。"""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from meeting_push.redis.address import RedisAddress
from meeting_push.redis.keys import Keys
from meeting_push.redis.probe import check_rights
from tests.support.redis_server import RedisServer


@pytest.mark.parametrize("channel", ["broadcast_channel", "system_channel"])
async def test_rights_are_checked_while_others_speak_on_the_shared_channels(
    redis_server: RedisServer, key_prefix: str, channel: str
) -> None:
    keys = Keys(key_prefix)
    frame = b"PUBLISH %b {}\r\n" % getattr(keys, channel).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", redis_server.port)

    async def speak() -> None:
        while True:
            writer.write(frame * 200)
            await reader.readexactly(200 * len(b":0\r\n"))

    speaking = asyncio.create_task(speak())
    try:
        for _ in range(20):
            await check_rights(RedisAddress.parse(redis_server.url), keys, "probe", 5)
        assert not speaking.done()
    finally:
        speaking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await speaking
        writer.close()
        await writer.wait_closed()
