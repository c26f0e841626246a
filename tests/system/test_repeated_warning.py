"""依赖不在的时候，真的服务器的日志不被同一行淹没。"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

from tests.support.eventually import wait_until
from tests.support.redis_server import RedisServer
from tests.support.server_process import ServerProcess


def test_a_server_without_redis_writes_each_warning_once(
    tmp_path: Path, private_redis_server: RedisServer
) -> None:
    with ServerProcess(tmp_path, redis_url=private_redis_server.url) as server:
        before = len(server.output.splitlines())
        private_redis_server.kill()
        wanted = {"consumer_waits", "move_due_failed", "pool_not_adjusted"}
        wait_until(lambda: all(event in server.output for event in wanted), 10)
        time.sleep(3)  # 证明没有第二条：只有时间能证明
        events = Counter(
            words[2]
            for words in (line.split() for line in server.output.splitlines()[before:])
            if len(words) > 2 and words[1] == "WARNING"
        )
        private_redis_server.start()
    assert wanted | {"redis_connection_lost"} <= events.keys()
    assert max(events.values()) == 1
