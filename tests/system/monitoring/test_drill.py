"""``meeting-push drill``：真的弄坏，真的看到；怎样停下都不留下进程。"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from tests.support.accounts import create_people
from tests.support.child import Child
from tests.support.eventually import wait_until
from tests.support.redis_server import RedisServer
from tests.support.server_process import ServerProcess

COMMAND = (sys.executable, "-m", "meeting_push", "drill")
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith("MEETING_PUSH_")}


def drill(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        env=ENVIRONMENT | environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", ["database-down", "disconnects"])
def test_a_drill_shows_each_step_in_time(name: str) -> None:
    done = drill(name, "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 0, done
    assert report["passed"]
    (record,) = report["drills"]
    took = {step["name"]: step["took_s"] for step in record["steps"]}
    assert list(took) == ["fired", "notice", "ready", "resolved", "told"]
    assert took["fired"] <= took["notice"]
    assert took["resolved"] <= took["told"]


def started_by(child: Child) -> list[psutil.Process]:
    return psutil.Process(child.pid).children(recursive=True)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_however_it_is_stopped_nothing_is_left(number: signal.Signals, tmp_path: Path) -> None:
    log = tmp_path / "log"
    child = Child([*COMMAND, "redis-slow"], log, env=ENVIRONMENT | {"TMPDIR": str(tmp_path)})
    try:
        wait_until(lambda: list(tmp_path.glob("*/node-0-all.log")), 30)
        wait_until(lambda: "serving" in next(tmp_path.glob("*/node-0-all.log")).read_text(), 30)
        left = started_by(child)
        assert len(left) >= 2
        code = child.terminate(number, timeout=30)
        _, alive = psutil.wait_procs(left, timeout=20)
    finally:
        child.stop()
    assert alive == []
    assert code == (130 if number is not signal.SIGKILL else -signal.SIGKILL)
    if number is not signal.SIGKILL:
        assert list(tmp_path.glob("meeting-push-drill-*")) == []


@pytest.fixture
def given(tmp_path: Path, private_redis_server: RedisServer) -> Iterator[ServerProcess]:
    rules = tmp_path / "alerts.yml"
    quick = {"redis_unavailable": {"for_s": 0}}
    rules.write_text(yaml.safe_dump({"rules": quick}))
    settings = {
        "alerts": rules,
        "alerts_interval_s": 0.5,
        "stats_interval_s": 0.5,
        "redis_timeout_s": 1,
    }
    with ServerProcess(tmp_path, redis_url=private_redis_server.url, settings=settings) as server:
        yield server


@pytest.mark.timeout(120)
async def test_a_given_system_is_broken_by_its_redis_and_left_as_it_was(
    given: ServerProcess, private_redis_server: RedisServer, tmp_path: Path
) -> None:
    (admin,) = await create_people(f"sqlite:///{tmp_path}/data/meeting-push.db", 1, "admin")
    where = ("--yes-really", "--url", given.base_url, "--redis-url", private_redis_server.url)
    done = drill("redis-down", "--json", *where, MEETING_PUSH_TOKEN=admin.token)
    assert done.returncode == 0, done
    (record,) = json.loads(done.stdout)["drills"]
    assert [step["name"] for step in record["steps"]][-1] == "told"
    wait_until(given.is_ready, 20)


def test_an_unknown_drill_is_one_line_and_exit_2() -> None:
    done = drill("redis-dwn")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "meeting-push: no drill redis-dwn; the nearest is redis-down (--list)"
    ]
