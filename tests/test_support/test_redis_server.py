from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from redis import Redis
from redis import TimeoutError as RedisTimeoutError

from tests.support.eventually import wait_until
from tests.support.redis_server import RedisServer


def test_the_fixture_answers_on_both_versions(redis_server: RedisServer, key_prefix: str) -> None:
    with Redis.from_url(redis_server.url) as redis:
        assert redis.incr(f"{key_prefix}n") == 1


def test_redis7_is_at_least_7(redis7_server: RedisServer) -> None:
    assert redis7_server.version >= (7,)


def test_the_embedded_one_is_the_newest_valkey(embedded_redis_server: RedisServer) -> None:
    assert embedded_redis_server.version[:2] >= (9, 1)


def test_an_answered_write_survives_kill_9(private_redis_server: RedisServer) -> None:
    url = private_redis_server.url
    with Redis.from_url(url) as redis:
        redis.set("kept", "yes")
    private_redis_server.restart()
    assert private_redis_server.url == url
    with Redis.from_url(url) as redis:
        assert redis.get("kept") == b"yes"


def test_a_paused_server_answers_only_after_resume(private_redis_server: RedisServer) -> None:
    with Redis.from_url(private_redis_server.url, socket_timeout=0.05, retry=None) as redis:
        redis.ping()
        private_redis_server.pause()
        with pytest.raises(RedisTimeoutError):
            redis.ping()
        private_redis_server.resume()
        assert wait_until(redis.ping)


def test_stop_ends_a_paused_server(private_redis_server: RedisServer) -> None:
    pid = private_redis_server.pid
    private_redis_server.pause()
    private_redis_server.stop()
    assert not psutil.pid_exists(pid)


def test_it_dies_with_a_killed_test_run(private_redis_server: RedisServer, tmp_path: Path) -> None:
    """pytest 被 kill -9 时没有机会运行夹具的收尾。"""
    program = f"""
import time
from pathlib import Path
from tests.support.redis_server import RedisServer
print(RedisServer(Path({str(private_redis_server.binary)!r}), Path({str(tmp_path)!r})).start().pid,
      flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as run:
        assert run.stdout is not None
        redis = psutil.Process(int(run.stdout.readline()))
        os.kill(run.pid, signal.SIGKILL)
    wait_until(lambda: _has_ended(redis))


def _has_ended(process: psutil.Process) -> bool:
    # 容器里没有 init 收尸时，它停在僵尸状态。
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
