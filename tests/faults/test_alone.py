"""一个什么都做的节点（``all``）：Redis 或 SQL 写不成就是不就绪，说得出原因。"""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from tests.support.redis_server import RedisServer
from tests.support.server_process import ServerProcess

from .faults import do
from .fleet import Log, becomes


@pytest.fixture
def server(tmp_path: Path, private_redis_server: RedisServer) -> Iterator[ServerProcess]:
    settings = {"database_timeout_s": 1, "canary_interval_s": 60}
    alone = ServerProcess(tmp_path, redis_url=private_redis_server.url, settings=settings)
    try:
        yield alone.start(60)
    finally:
        alone.stop()


def test_it_is_ready_at_once(server: ServerProcess) -> None:
    """契约：启动时写成一遍就就绪，不等金丝雀的间隔（这里是一分钟）。"""
    assert re.search(r" serving ", server.output)
    server.terminate()
    server.launch()
    start = time.monotonic()
    becomes(server, 200, within=30)
    assert time.monotonic() - start < 30


def test_redis_full(server: ServerProcess, private_redis_server: RedisServer) -> None:
    """B2：一个节点也如此；金丝雀的间隔再长，好了也很快知道。"""
    log = Log.of(server)
    with Redis(port=private_redis_server.port) as admin:
        admin.config_set("maxmemory", "1mb")
        body = becomes(server, 503, "oom").body
        assert body["failing"]["redis"].startswith("oom: ")
        admin.config_set("maxmemory", 0)
    becomes(server, 200)
    assert "Traceback" not in log.text


def test_publishing_forbidden(server: ServerProcess, private_redis_server: RedisServer) -> None:
    """B4、B2 的同类：运行着的时候被收走了频道。"""
    log = Log.of(server)
    with Redis(port=private_redis_server.port) as admin:
        do(admin, "ACL", "SETUSER", "default", "resetchannels")
        becomes(server, 503, "noperm", within=15)
        do(admin, "ACL", "SETUSER", "default", "allchannels")
    becomes(server, 200)
    assert "Traceback" not in log.text


def test_sqlite_locked(server: ServerProcess) -> None:
    """B3：别的程序占着 SQLite 的写锁。"""
    log = Log.of(server)
    database = sqlite3.connect(server.directory / "data" / "meeting-push.db", isolation_level=None)
    database.execute("BEGIN IMMEDIATE")
    becomes(server, 503, "locked")
    database.execute("ROLLBACK")
    database.close()
    becomes(server, 200)
    assert "Traceback" not in log.text
