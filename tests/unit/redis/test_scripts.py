"""Lua 脚本：缓存丢了也照样执行。"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest

from meeting_push.errors import RedisCommandError
from meeting_push.redis.dial import RedisAddress
from meeting_push.redis.keys import Keys
from meeting_push.redis.lean import LeanConnection, Script
from meeting_push.redis.streams import known_key
from tests.support.redis_server import RedisServer

LUA = Path(str(files("meeting_push.redis") / "lua"))


async def test_a_script_runs_again_after_script_flush(
    redis_server: RedisServer, key_prefix: str
) -> None:
    lean = LeanConnection(RedisAddress.parse(redis_server.url))
    await lean.connect()
    script, queue = Script("enqueue"), Keys(key_prefix).delivery_queue
    assert await script.run(lean, [queue, known_key(queue)], [10, "a"]) == 1
    await lean.execute("SCRIPT", "FLUSH")
    assert await script.run(lean, [queue, known_key(queue)], [10, "b"]) == 2
    assert await script.run(lean, [queue, known_key(queue)], [10, "c"]) == 3
    await lean.close()


@pytest.mark.parametrize("name", sorted(path.stem for path in LUA.glob("*.lua")))
async def test_every_shipped_script_compiles(name: str, redis_server: RedisServer) -> None:
    lean = LeanConnection(RedisAddress.parse(redis_server.url))
    await lean.connect()
    assert len(await lean.execute("SCRIPT", "LOAD", Script(name).text)) == 40
    await lean.close()


async def test_an_error_inside_a_script_is_raised(
    redis_server: RedisServer, key_prefix: str
) -> None:
    lean = LeanConnection(RedisAddress.parse(redis_server.url))
    await lean.connect()
    queue = Keys(key_prefix).delivery_queue
    await lean.execute("SET", queue, "not a stream")
    with pytest.raises(RedisCommandError, match="WRONGTYPE"):
        await Script("enqueue").run(lean, [queue, known_key(queue)], [10, "a"])
    await lean.close()
