"""启动时依赖不对：等有期限，说得出原因，信号管用（B4、E12，LESSONS 26）。"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from tests.support.eventually import wait_until
from tests.support.redis_server import RedisServer
from tests.support.server_process import ServerProcess

from .faults import do

#: Redis 7 的新用户：什么命令都行，什么频道都不行。
NEW_USER = ("~*", "+@all", "resetchannels")


def account(redis: RedisServer, *rules: str) -> str:
    """建一个用户，返回用它的地址。"""
    with Redis(port=redis.port) as admin:
        do(admin, "ACL", "SETUSER", "app", "on", ">secret", *rules)
    return redis.url.replace("//", "//app:secret@")


@contextlib.contextmanager
def starting(directory: Path, **given: object) -> Iterator[ServerProcess]:
    server = ServerProcess(directory, **given)  # type: ignore[arg-type]
    server.launch()
    try:
        yield server
    finally:
        server.stop()


def command(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("MEETING_PUSH_")}
    return subprocess.run(
        [sys.executable, "-m", "meeting_push", *words, "--data-dir", str(directory / "data")],
        cwd=directory,
        env=env,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


@pytest.mark.parametrize(
    ("rules", "missing"),
    [
        (NEW_USER, "SUBSCRIBE"),
        (("~*", "&*", "+@all", "-evalsha", "-eval"), "EVAL"),
        (("~*", "&*", "+@all", "-xreadgroup"), "XREADGROUP"),
        (("~other:*", "&*", "+@all"), "SET"),
        (("~*", "&*", "+@all", "-publish"), "PUBLISH"),
    ],
    ids=["channels", "scripts", "streams", "keys", "publish"],
)
def test_a_redis_user_without_rights_is_one_line_that_names_them(
    tmp_path: Path, private_redis_server: RedisServer, rules: tuple[str, ...], missing: str
) -> None:
    """B4"""
    url = account(private_redis_server, *rules)
    result = command(tmp_path, "serve", "--port", "0", "--redis-url", url)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    [said] = [line for line in result.stderr.splitlines() if "meeting-push:" in line]
    assert "noperm" in said
    assert missing in said
    assert "secret" not in said


def test_doctor_says_so_too(tmp_path: Path, private_redis_server: RedisServer) -> None:
    """B4"""
    url = account(private_redis_server, *NEW_USER)
    result = command(tmp_path, "doctor", "--redis-url", url)
    assert result.returncode == 1
    assert "noperm" in result.stdout
    assert "SUBSCRIBE" in result.stdout


def test_a_redis_that_comes_later_is_waited_for(
    tmp_path: Path, private_redis_server: RedisServer
) -> None:
    """E12：连不上不是立刻退出；等着的时候说出原因，端口不接没有人答的连接。"""
    private_redis_server.kill()
    with starting(tmp_path, redis_url=private_redis_server.url) as server:
        wait_until(lambda: "start_waits" in server.output, 20)
        assert "cause=unreachable" in server.output
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port), 1).close()
        private_redis_server.start()
        wait_until(server.is_ready, 20)


def test_a_database_that_comes_later_is_waited_for(
    tmp_path: Path, private_redis_server: RedisServer
) -> None:
    """E12"""
    nobody = "postgresql://postgres@127.0.0.1:1/x"
    redis_url = private_redis_server.url
    with starting(tmp_path, redis_url=redis_url, database_url=nobody) as server:
        wait_until(lambda: "start_waits" in server.output, 20)
        assert "code=database_unavailable cause=unreachable" in server.output


def test_waiting_has_a_limit(tmp_path: Path) -> None:
    """E12、B4"""
    nobody, limit = "redis://127.0.0.1:1/0", {"start_patience_s": 1}
    with starting(tmp_path, redis_url=nobody, settings=limit) as server:
        wait_until(lambda: "meeting-push: cannot connect to Redis" in server.output, 20)
        assert "Traceback" not in server.output


@pytest.mark.parametrize("hung", [False, True], ids=["gone", "hung"])
def test_a_signal_ends_the_wait(
    tmp_path: Path, private_redis_server: RedisServer, hung: bool
) -> None:
    """B4：还在等也听信号。"""
    if hung:
        private_redis_server.pause()
    else:
        private_redis_server.kill()
    with starting(tmp_path, redis_url=private_redis_server.url) as server:
        wait_until(lambda: "start_waits" in server.output, 30)
        start = time.monotonic()
        assert server.terminate(5) == 0
        assert time.monotonic() - start < 5
    if not hung:
        private_redis_server.start()
