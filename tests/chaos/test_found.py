"""混乱里找到过的：每个都缩成一个不靠运气的测试。"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from redis import Redis

from meeting_push.clock import now_ms
from tests.support.eventually import eventually
from tests.support.people import register, send
from tests.support.redis_server import RedisServer
from tests.support.server_process import ServerProcess

QUICK = {"relay_grace_s": 0.1, "relay_interval_s": 0.1}
TOMORROW_MS = 86_400_000


async def test_a_scheduled_message_swept_again_is_still_one_delayed_entry(
    tmp_path: Path, private_redis_server: RedisServer
) -> None:
    """入队之后、记下之前死掉的会再入队一次；SQL 给出收件人的次序与当初 POST 的不同。"""
    server = ServerProcess(tmp_path, redis_url=private_redis_server.url, role="api", settings=QUICK)
    with server, Redis.from_url(private_redis_server.url) as redis:
        sender, *others = [await register(server.base_url, f"user-{n}") for n in range(4)]
        await send(server.base_url, sender, others[::-1], deliver_at=now_ms() + TOMORROW_MS)
        with closing(sqlite3.connect(tmp_path / "data" / "meeting-push.db", timeout=10)) as sql:

            def marked() -> bool:
                return sql.execute("SELECT enqueued_at FROM mp_messages").fetchone()[0] is not None

            await eventually(marked)
            with sql:
                sql.execute("UPDATE mp_messages SET enqueued_at = NULL")
            await eventually(marked)
        assert redis.zcard("delayed_message_queue") == 1
