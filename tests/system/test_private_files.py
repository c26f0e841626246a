"""A15：数据文件夹里的一切只有主人读得到，不论 umask；A17：密码不在 ``ps`` 里。"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from meeting_push import MeetingPush, load_settings
from meeting_push.cli import without_secrets
from meeting_push.client.ledger import DeviceState, StateFile
from meeting_push.storage.database import Database
from tests.support.eventually import wait_until
from tests.support.people import register, send
from tests.support.redis_server import RedisServer
from tests.support.server_process import ServerProcess


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def open_to_others(folder: Path) -> list[str]:
    """别人碰得到的，连同文件夹自己。"""
    return [
        f"{stat.filemode(path.lstat().st_mode)} {path}"
        for path in (folder, *folder.rglob("*"))
        if stat.S_IMODE(path.lstat().st_mode) & 0o077
    ]


@pytest.fixture
def short_path() -> Iterator[Path]:
    """``tmp_path`` 可能太长，那样套接字就不在数据文件夹里。"""
    with tempfile.TemporaryDirectory(prefix="mp-") as name:
        yield Path(name)


async def test_a15_what_a_server_writes_is_its_owners(short_path: Path) -> None:
    """A15: SQLite 与它的 WAL、密钥、内嵌的 Redis、套接字；0.1 里数据库 0644。"""
    data = short_path / "data"
    with ServerProcess(short_path) as server:
        alice, bob = [await register(server.base_url, name) for name in ("alice", "bob")]
        await send(server.base_url, alice, [bob])
        names = {path.name for path in data.rglob("*")}
        assert {"meeting-push.db", "meeting-push.db-wal", "redis.sock"} <= names
        assert open_to_others(data) == []


async def test_a15_embedded_too(tmp_path: Path) -> None:
    """A15: 内嵌时 umask 是应用的；上级文件夹也是我们造的。"""
    push = MeetingPush(load_settings(data_dir=tmp_path / "a" / "b"))
    await push.start()
    try:
        assert open_to_others(tmp_path / "a") == []
    finally:
        await push.stop()


async def test_a15_a_database_of_0_1_is_closed_to_others(tmp_path: Path) -> None:
    """A15: 已有的收回权限；文件夹可能不只是我们的，不动。"""
    files = [tmp_path / f"x.db{suffix}" for suffix in ("", "-wal", "-shm")]
    for file in files:
        file.touch(0o644)
    database = Database(f"sqlite:///{files[0]}")
    await database.migrate()
    await database.dispose()
    assert [stat.S_IMODE(file.stat().st_mode) for file in files if file.exists()] == [
        0o600 for file in files if file.exists()
    ]


def test_a15_the_sdks_state_is_its_owners(tmp_path: Path) -> None:
    """A15: 设备状态里有消息的 id。"""
    StateFile(tmp_path / "a" / "state.json").save(DeviceState(device_id="d"))
    assert open_to_others(tmp_path / "a") == []


def test_a15_a_report_is_its_owners(tmp_path: Path) -> None:
    """A15: 命令行写的一切：报告、历史、子进程的日志。"""
    script = (
        "import sys; from unittest.mock import patch; from meeting_push import cli\n"
        "patch('meeting_push.cli.app', lambda: open(sys.argv[1], 'w').close()).start()\n"
        "cli.main()"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "report")], check=True, timeout=50)
    assert stat.S_IMODE((tmp_path / "report").stat().st_mode) == 0o600


# ── ps ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("arguments", "kept", "moved"),
    [
        (["--redis-url", "redis://:pw@h"], [], {"MEETING_PUSH_REDIS_URL": "redis://:pw@h"}),
        (["--redis-url=redis://:pw@h", "x"], ["x"], {"MEETING_PUSH_REDIS_URL": "redis://:pw@h"}),
        (["--redis-url", "redis://h"], ["--redis-url", "redis://h"], {}),
        (["--token", "t", "--to", "1"], ["--to", "1"], {"MEETING_PUSH_TOKEN": "t"}),
        (
            ["--port", "1", "--database-url", "postgresql://h/d?user=u&password=p"],
            ["--port", "1"],
            {"MEETING_PUSH_DATABASE_URL": "postgresql://h/d?user=u&password=p"},
        ),
        (["--database-url"], ["--database-url", ""], {}),
    ],
)
def test_a17_options_with_a_secret_become_variables(
    arguments: list[str], kept: list[str], moved: dict[str, str]
) -> None:
    assert without_secrets(arguments) == (kept, moved)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a17_a_password_given_as_an_option_is_not_in_ps(
    tmp_path: Path, private_redis_server: RedisServer
) -> None:
    """A17: 换成环境变量，照样连得上。"""
    with Redis.from_url(private_redis_server.url) as redis:
        redis.config_set("requirepass", "s3cret")
    url = private_redis_server.url.replace("redis://", "redis://:s3cret@")
    server = ServerProcess(tmp_path, redis_url=url)
    server.launch()
    try:
        command_line = Path(f"/proc/{server.pid}/cmdline")
        wait_until(server.is_ready, 50)
        words = command_line.read_bytes().split(b"\0")
        assert str(server.port).encode() in words
        assert not [word for word in words if b"s3cret" in word]
    finally:
        server.stop()
