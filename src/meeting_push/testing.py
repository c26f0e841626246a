"""给应用自己的测试：pytest 的插件，一个测试一个干净的系统，起停约 0.3 秒。

在 ``conftest.py`` 里::

    pytest_plugins = ["meeting_push.testing"]

``push_settings``：一个 ``Settings``，交给 ``MeetingPush``。整个会话共用一个只在内存里的 Redis，每个
测试有自己的键前缀与一份新的 SQLite（迁移只做一次，之后是拷贝）；送客、攒批、轮询都短。
令牌用 ``JWT_SECRET`` 签。改几项：``push_settings.changed(max_recipients=…)``。
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from .launcher import dying_with_us
from .redis.embedded import find_server
from .settings import Settings, load_settings
from .storage.database import Database

_READY_S: Final = 30.0
#: 验证测试里的令牌（HS256）。
JWT_SECRET: Final = "meeting-push-testing-meeting-push"  # noqa: S105 — 谁都看得到的
#: 测试不等人：送客、攒批、轮询都短。
_QUICK: Final = {
    "drain_window_s": 0,
    "consumer_block_ms": 50,
    "presence_flush_ms": 5,
    "relay_interval_s": 0.1,
    "relay_grace_s": 0.1,
}


@pytest.fixture(scope="session")
def push_redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """一个不写盘的 ``valkey-server``，随会话结束。"""
    folder = tmp_path_factory.mktemp("push-redis")
    socket = folder / "redis.sock"
    command = (
        *(str(find_server().path), "--port", "0", "--unixsocket", str(socket)),
        *("--dir", str(folder), "--save", "", "--appendonly", "no", "--daemonize", "no"),
    )
    launched = dying_with_us(*command)
    with subprocess.Popen(launched, stdout=subprocess.DEVNULL) as server:  # noqa: S603 — 都是我们自己的
        try:
            _until_listening(server, socket)
            yield f"unix://{socket}"
        finally:
            server.terminate()


def _until_listening(server: subprocess.Popen[bytes], socket: Path) -> None:
    pause = threading.Event()
    for _ in range(int(_READY_S / 0.01)):
        if socket.exists():
            return
        assert server.poll() is None, "valkey-server exited"
        pause.wait(0.01)
    raise TimeoutError("valkey-server is not ready")


@pytest.fixture(scope="session")
def push_empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """迁移好的空 SQLite；每个测试拷一份。"""
    path = tmp_path_factory.mktemp("push-database") / "empty.db"
    settings = load_settings(database_url=f"sqlite:///{path}")

    async def migrate() -> None:
        database = Database.of(settings.sql_url, settings.database)
        await database.migrate()
        await database.dispose()

    # 在旁边的线程里：不动调用者线程的事件循环
    worker = threading.Thread(target=lambda: asyncio.run(migrate()))
    worker.start()
    worker.join()
    return path


@pytest.fixture
def push_settings(push_redis_url: str, push_empty_database: Path, tmp_path: Path) -> Settings:
    """见本页的开头。"""
    database = tmp_path / "meeting-push.db"
    for suffix in ("", "-wal"):
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(f"{push_empty_database}{suffix}", f"{database}{suffix}")
    return load_settings(
        redis_url=push_redis_url,
        key_prefix=f"{secrets.token_hex(4)}:",
        database_url=f"sqlite:///{database}",
        data_dir=tmp_path,
        jwt_secret=JWT_SECRET,
        **_QUICK,
    )
