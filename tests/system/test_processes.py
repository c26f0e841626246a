"""进程：多工人一个端口、数据目录只有一个主人、坏配置一行字、从容关机。"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.eventually import eventually, wait_until
from tests.support.people import device, register, send
from tests.support.server_process import ServerProcess


def serve(*options: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("MEETING_PUSH_")}
    return subprocess.run(
        [sys.executable, "-m", "meeting_push", "serve", *options],
        cwd=cwd,
        env=env | environment,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


async def test_two_workers_share_one_port_and_deliver_across(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, workers=2) as server:
        alice = await register(server.base_url, "alice")
        bob = await register(server.base_url, "bob")
        async with device(server.ws_url(bob.user_id), bob) as phone:
            for _ in range(4):  # 内核把连接分给两个进程，发送几次两边都轮到
                message_id = await send(server.base_url, alice, [bob])
                assert (await phone.next_message())["message_id"] == message_id


def worker_pids(server: ServerProcess) -> set[int]:
    """活着的工人进程（不含内嵌的 Redis）。"""
    return {child.pid for child in psutil.Process(server.pid).children() if _is_worker(child)}


def _is_worker(child: psutil.Process) -> bool:
    try:
        return child.status() != psutil.STATUS_ZOMBIE and "meeting_push" in child.cmdline()
    except psutil.NoSuchProcess:  # 数到它之后才死的
        return False


async def test_a_dead_worker_is_replaced(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, workers=2) as server:
        before = worker_pids(server)
        os.kill(min(before), signal.SIGKILL)

        def replaced() -> bool:
            now = worker_pids(server)
            return len(now) == 2 and min(before) not in now

        await eventually(replaced, 20)
        assert "worker_died" in server.output


def test_workers_die_with_their_parent(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, workers=2) as server:
        family = psutil.Process(server.pid).children(recursive=True)
        server.kill()
        wait_until(lambda: not any(one.is_running() for one in family), 20)


def test_a_second_server_on_the_same_data_folder_is_refused(tmp_path: Path) -> None:
    with ServerProcess(tmp_path):
        second = serve("--port", "0", "--data-dir", str(tmp_path / "data"), cwd=tmp_path)
    assert second.returncode == 2
    assert "in use by another server" in second.stderr
    assert "Traceback" not in second.stderr


@pytest.mark.parametrize(
    ("options", "environment", "words"),
    [
        (("--redis-url", "http://x"), {}, "Redis URL"),
        (("--database-url", "mysql://x"), {}, "database_url"),
        ((), {"MEETING_PUSH_PORT": "99999"}, "port"),
        ((), {"MEETING_PUSH_ALLOWED_ORIGINS": "nonsense"}, "allowed_origins"),
        ((), {"MEETING_PUSH_JWT_ALGORITHMS": '["none"]'}, "algorithm"),
        (("--host", "203.0.113.1"), {}, "listen"),
    ],
    ids=["redis", "database", "port", "origins", "algorithm", "host"],
)
def test_bad_configuration_is_one_line_and_exit_code_2(
    tmp_path: Path, options: tuple[str, ...], environment: dict[str, str], words: str
) -> None:
    result = serve("--data-dir", str(tmp_path / "d"), *options, cwd=tmp_path, **environment)
    lines = [line for line in result.stderr.splitlines() if "meeting-push:" in line]
    assert result.returncode == 2
    assert len(lines) == 1
    assert words in lines[0]
    assert "Traceback" not in result.stderr


def test_an_unreachable_redis_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    result = serve(
        *("--redis-url", "redis://127.0.0.1:1/0", "--port", "0", "--data-dir", str(tmp_path / "d")),
        cwd=tmp_path,
        MEETING_PUSH_START_PATIENCE_S="0",
    )
    assert result.returncode == 1
    assert "Traceback" not in result.stderr


def test_sigterm_ends_everything_in_time(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
        family = psutil.Process(server.pid).children(recursive=True)
        assert server.terminate() == 0
        assert not any(one.is_running() for one in family)


async def test_data_survives_a_restart(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
        alice = await register(server.base_url, "alice")
        bob = await register(server.base_url, "bob")
        message_id = await send(server.base_url, alice, [bob])
        server.terminate()
        server.start()
        async with device(server.ws_url(bob.user_id), bob) as phone:
            assert (await phone.next_message())["message_id"] == message_id
