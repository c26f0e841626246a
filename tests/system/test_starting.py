"""启动与停下（docs/findings.md 的 D）：平常的错误是一行话；奇怪的路径照样用；停下总是有次序的。"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import httpx
import psutil
import pytest
from sqlalchemy import text

from meeting_push.errors import ConfigurationError
from meeting_push.redis.embedded import FILE_NAME, EmbeddedRedis, find_server
from meeting_push.server import unknown_variables
from meeting_push.settings import load_settings
from meeting_push.storage.database import Database
from meeting_push.storage.migration import HEAD
from tests.support.eventually import eventually, wait_until
from tests.support.people import api_of, device, login, send
from tests.support.postgres_server import PostgresServer
from tests.support.redis_server import RedisServer
from tests.support.server_process import ServerProcess

#: 0.1 写的数据文件夹：Redis 6.2 的单文件 AOF，bob（2）的信箱里三条，有效期到 2090 年。
FOLDER_OF_0_1 = Path(__file__).with_name("folder-0.1.tar.gz")
STRANGE_NAME = "a#b%41c?d\ne f \"'é"


def refusal(*arguments: str, cwd: Path, **environment: str) -> str:
    """``serve`` 以退出码 2 拒绝启动时说的那一行。"""
    env = {k: v for k, v in os.environ.items() if not k.startswith("MEETING_PUSH_")}
    result = subprocess.run(
        [sys.executable, "-m", "meeting_push", "serve", *arguments],
        cwd=cwd,
        env=env | {f"MEETING_PUSH_{name}": value for name, value in environment.items()},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert result.returncode == 2, result
    said = [line for line in result.stderr.splitlines() if line.startswith("meeting-push: ")]
    assert len(said) == 1, result.stderr
    assert "Traceback" not in result.stderr
    return said[0]


# ── D1：地址与文件夹 ─────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "query",
    [
        "application_name=shop",
        "connect_timeout=3",
        "options=-c%20search_path%3Dpublic",
        "channel_binding=prefer",
        "statement_cache_size=0",
        "prepared_statement_cache_size=0&statement_cache_size=0",
        "sslmode=prefer&target_session_attrs=any&gssencmode=disable",
    ],
)
async def test_d1_what_ordinary_postgresql_urls_carry_is_understood(
    postgres_server: PostgresServer, query: str
) -> None:
    url = postgres_server.create_database()
    database = Database(f"{url}{'&' if '?' in url else '?'}{query}")
    try:
        await database.ping()
    finally:
        await database.dispose()
        postgres_server.drop_database(url)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("aplication_name=x", "no parameter 'aplication_name'"),
        ("channel_binding=require", "channel_binding=require is not supported"),
        ("connect_timeout=soon", "connect_timeout must be a whole number"),
        ("application_name=a&application_name=b", "more than once"),
    ],
)
def test_d1_other_parameters_are_refused_by_name(query: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as refused:
        Database(f"postgresql://u:hunter2@h/d?{query}")
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("folder", ["file/data", "/proc/data"])
def test_d1_a_data_folder_that_can_not_be_is_one_line(tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").write_text("")
    assert folder in refusal("--data-dir", folder, cwd=tmp_path)


def test_d3_a_redis_database_that_is_not_there_is_one_line(
    tmp_path: Path, redis7_server: RedisServer
) -> None:
    url = redis7_server.url.removesuffix("/0") + "/99"
    assert "DB index is out of range" in refusal("--redis-url", url, cwd=tmp_path)


# ── D2：奇怪的路径 ───────────────────────────────────────────────────────────


def test_d2_a_data_folder_of_any_name_holds_both_redis_and_the_database(tmp_path: Path) -> None:
    folder = tmp_path / STRANGE_NAME
    with ServerProcess(tmp_path, "--data-dir", str(folder)):
        pass
    assert (folder / "meeting-push.db").exists()
    assert (folder / "redis" / "appendonlydir").exists()


# ── D3、D4：说得清楚 ─────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("REDIS_URL", " ", "redis_url: is empty"),
        ("DATABASE_URL", "", "database_url: is empty"),
        ("JWT_SECRET", "", "jwt_secret: is empty"),
        ("ALLOWED_ORIGINS", '["example.com"]', "'example.com' is not an origin"),
        ("ALLOWED_ORIGINS", '["https://example.com/app"]', "is not an origin"),
        ("ALLOWED_ORIGINS", "https://example.com", "allowed_origins: not JSON"),
        ("HEARTBEAT_TIMEOUT_S", "30", "heartbeat_timeout_s must be more than heartbeat_interval_s"),
        ("CONSUMER_TASKS_MAX", "1", "consumer_tasks_max must not be less than consumer_tasks"),
    ],
)
def test_d4_settings_that_can_not_be_meant_are_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(f"MEETING_PUSH_{name}", value)
    with pytest.raises(ConfigurationError, match=said):
        load_settings()


def test_d4_unknown_variables_are_named_with_the_nearest_known(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("MEETING_PUSH_REDDIS_URL=x\nOTHER=1\nMEETING_PUSH_PORT=1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEETING_PUSH_HEARTBEAT_INTERVL_S", "3")
    monkeypatch.setenv("MEETING_PUSH_TOKEN", "of the command line")
    assert dict(unknown_variables()) == {
        "MEETING_PUSH_HEARTBEAT_INTERVL_S": "MEETING_PUSH_HEARTBEAT_INTERVAL_S",
        "MEETING_PUSH_REDDIS_URL": "MEETING_PUSH_REDIS_URL",
    }


def test_d4_an_unknown_variable_is_one_warning_at_start(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, settings={"heartbeat_intervl_s": 3}, workers=2) as server:
        log = server.log.read_text()
    assert log.count("unknown_setting") == 1


# ── D5：停下 ────────────────────────────────────────────────────────────────


def test_d5_sighup_drains_like_sigterm(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
        process = psutil.Process(server.pid)
        process.send_signal(signal.SIGHUP)
        process.wait(30)
        assert "draining" in server.output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_d5_a_demo_that_is_ended_leaves_nothing_running(
    tmp_path: Path, number: signal.Signals
) -> None:
    demo = subprocess.Popen(
        [sys.executable, "-m", "meeting_push", "demo"],
        cwd=tmp_path,
        env=os.environ | {"TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert demo.stdout is not None
    try:
        shown = iter(demo.stdout)
        first = next(line for line in shown if "is ready on" in line)
        address = first.split("is ready on ")[1].split()[0]
        # 打勾时它已就绪，而不只是有人占着端口
        assert httpx.get(f"{address}/readyz", trust_env=False).status_code == httpx.codes.OK
        family = psutil.Process(demo.pid).children(recursive=True)
        assert len(family) >= 2  # 服务器与它的 Redis
        demo.send_signal(number)
        demo.wait(30)
        wait_until(lambda: not any(map(_alive, family)), 30)
    finally:
        demo.kill()
        demo.stdout.close()
        demo.wait()
    if number is not signal.SIGKILL:
        assert list(tmp_path.glob("meeting-push-demo-*")) == []


# ── D6：0.1 的数据文件夹 ─────────────────────────────────────────────────────


def test_d6_a_folder_of_0_1_opens_with_every_mailbox(tmp_path: Path) -> None:
    with tarfile.open(FOLDER_OF_0_1) as archive:
        archive.extractall(tmp_path, filter="data")
    with ServerProcess(tmp_path) as server:
        credentials = {"username": "bob", "password": "correct horse"}
        answer = httpx.post(f"{server.base_url}/api/v1/auth/login", json=credentials)
        headers = {"authorization": f"Bearer {answer.json()['access_token']}"}
        waiting = httpx.get(f"{server.base_url}/api/v1/users/2/offline-messages", headers=headers)
        # 升级不替人删旧消息，并说一声
        wait_until(lambda: "retention_keeps_everything" in server.output, 60)
    assert [one["title"] for one in waiting.json()["items"]] == ["old 1", "old 2", "old 0"]


async def test_d6_what_waited_in_a_folder_of_0_1_arrives_and_is_confirmed(tmp_path: Path) -> None:
    """从 0.1 到 0.2：停一次，原来的一条不少地推到、确认、读得到，新的接着来。"""
    with tarfile.open(FOLDER_OF_0_1) as archive:
        archive.extractall(tmp_path, filter="data")
    server = ServerProcess(tmp_path)
    try:
        server.start()
        bob = await login(server.base_url, "bob", "correct horse")
        async with device(server.ws_url(bob.user_id), bob) as phone:
            old = [await phone.next_message() for _ in range(3)]
            new = await send(server.base_url, bob, [bob], title="new")
            assert (await phone.next_message())["message_id"] == new
            ids = [new, *(one["message_id"] for one in old)]
            await phone.ack(*ids)

            async def recorded() -> bool:
                async with api_of(server.base_url, bob) as api:
                    items = (await api.get("/messages")).json()["items"]
                ended = {one["message_id"] for one in items if one["status"] == "delivered"}
                return ended == set(ids)

            await eventually(recorded, 30)
    finally:
        server.stop()
    assert sorted(one["title"] for one in old) == ["old 0", "old 1", "old 2"]


async def test_d6_a_program_too_old_for_the_database_says_what_to_do(tmp_path: Path) -> None:
    """退回：一行话，退出码 2。"""
    url = f"sqlite:///{tmp_path}/d.db"
    database = Database(url)
    await database.migrate()
    newer = f"{int(HEAD) + 2:04d}"
    await database.change(text(f"UPDATE mp_alembic_version SET version_num = '{newer}'"))
    await database.dispose()
    said = await asyncio.to_thread(refusal, "--database-url", url, cwd=tmp_path)
    assert f"its schema is {newer}, this program knows up to {HEAD}" in said
    assert f"meeting-push db downgrade {HEAD}" in said


@pytest.mark.parametrize("writer", ["valkey 99.0.0", "redis 99.0.0", "valkey"])
async def test_d6_what_a_newer_server_wrote_is_refused_with_one_line(
    tmp_path: Path, writer: str
) -> None:
    folder = tmp_path / "redis"
    folder.mkdir()
    (folder / FILE_NAME).write_text(writer)
    with pytest.raises(ConfigurationError, match=FILE_NAME if writer == "valkey" else "written by"):
        await EmbeddedRedis(tmp_path).start()


async def test_d6_a_folder_remembers_who_wrote_it(tmp_path: Path) -> None:
    embedded = EmbeddedRedis(tmp_path)
    await embedded.start()
    await embedded.stop()
    written_by = await asyncio.to_thread((tmp_path / "redis" / FILE_NAME).read_text)
    assert written_by.split() == find_server().name.replace("-server", "").split()


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_rules_of_alerts_that_can_not_be_meant_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "alerts.yml").write_text("rules:\n  sun_down: {threshold: 1}\n")
    said = refusal("--data-dir", "data", cwd=tmp_path, ALERTS="alerts.yml")
    assert "alerts.yml: rules: unknown rule sun_down" in said
