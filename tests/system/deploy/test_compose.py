"""``deploy/compose/``：它写的命令在真的 Redis、PostgreSQL、nginx 上跑；配置由各自的工具看。"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.child import Child
from tests.support.compose import FOLDER, compose, mounts, prepared, variables
from tests.support.eventually import wait_until
from tests.support.people import device, register, send
from tests.support.ports import free_port
from tests.support.proxies import PROXIES
from tests.support.redis_server import RedisServer
from tests.support.server_process import answers

NODES = ("node1", "node2", "worker")


def test_each_variable_it_wants_is_in_its_example_of_an_env_file() -> None:
    named = re.findall(r"^(\w+)=", (FOLDER / ".env.example").read_text(), re.MULTILINE)
    assert variables() == set(named)


def test_each_image_has_a_version_and_each_file_it_mounts_exists() -> None:
    for name, service in compose()["services"].items():
        assert "build" in service or re.search(r":v?\d", service["image"]), name
        for path in mounts(service).values():
            made_by_hand = path.name == "meeting-push.token"
            assert made_by_hand or path.exists(), (name, path)


def _environment(service: dict[str, Any], redis: RedisServer, database: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MEETING_PUSH_")}
    ours = {k: re.sub(r"\$\{\w+:\?[^}]*\}", "x" * 40, v) for k, v in service["environment"].items()}
    assert ours["MEETING_PUSH_REDIS_URL"].endswith("valkey:6379/0")
    assert ours["MEETING_PUSH_DATABASE_URL"].endswith("@postgres:5432/meeting_push")
    ours |= {"MEETING_PUSH_REDIS_URL": redis.url, "MEETING_PUSH_DATABASE_URL": database}
    return kept | ours | {"MEETING_PUSH_KEY_PREFIX": "compose:"}


@pytest.fixture
def site(tmp_path: Path, redis7_server: RedisServer, postgres_url: str) -> Iterator[str]:
    """nginx 的地址，后面是照它跑的三个节点。"""
    services = compose()["services"]
    with ExitStack() as stack:
        ports = dict[str, int]()
        for name in NODES:
            ports[name] = free_port()
            (folder := tmp_path / name).mkdir()
            environment = _environment(services[name], redis7_server, postgres_url)
            environment["MEETING_PUSH_PORT"] = str(ports[name])
            command = [sys.executable, "-m", "meeting_push", *services[name]["command"]]
            child = Child(command, tmp_path / f"{name}.log", env=environment, cwd=folder)
            stack.callback(child.stop)
        for port in ports.values():
            wait_until(lambda at=port: answers(f"http://127.0.0.1:{at}"), 60)  # type: ignore[misc]
        yield stack.enter_context(_nginx(services["nginx"], tmp_path, ports))


def _nginx(service: dict[str, Any], folder: Path, ports: dict[str, int]) -> Any:
    """它的 shell 造配置，名字再换成这里的端口。"""
    (nginx,) = (proxy for proxy in PROXIES if proxy.name == "nginx")
    made = folder / "nginx.conf"
    prepared(service, {"/etc/nginx/nginx.conf": made}, mounts(service))
    text = made.read_text()
    assert not re.search(r"10\.0\.0\.\d", text)
    for name in NODES[:2]:
        text = text.replace(f"{name}:8000", f"127.0.0.1:{ports[name]}")
    return nginx.running(folder, text)


@pytest.mark.timeout(180)
async def test_its_processes_together_carry_a_message(site: str) -> None:
    nina, otto = await register(site, "nina"), await register(site, "otto")
    async with device(f"{site.replace('http', 'ws')}/ws/user/{otto.user_id}/messages", otto) as one:
        sent = await send(site, nina, [otto])
        assert (await one.next_message())["message_id"] == sent


@pytest.mark.parametrize(
    ("name", "inside", "tool"),
    [
        ("prometheus", "/etc/prometheus", ("promtool", "check", "config", "prometheus.yml")),
        ("alertmanager", "/etc/alertmanager", ("amtool", "check-config", "alertmanager.yml")),
    ],
)
def test_what_it_makes_of_the_generated_files_passes_their_tools(
    name: str, inside: str, tool: tuple[str, ...], tmp_path: Path
) -> None:
    service = compose()["services"][name]
    (tmp_path / "token").write_text("mpk_example")
    mounted = mounts(service) | {"/token": tmp_path / "token"}
    prepared(service, {inside: tmp_path}, mounted)
    made = (tmp_path / tool[-1]).read_text()
    assert "127.0.0.1" not in made
    done = subprocess.run(tool, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_grafana_is_given_its_source_and_its_dashboards(tmp_path: Path) -> None:
    service = compose()["services"]["grafana"]
    after = prepared(service, {"/tmp": tmp_path}, mounts(service))
    assert after == "/run.sh"
    source = (tmp_path / "provisioning/datasources/meeting-push.yml").read_text()
    assert "url: http://prometheus:9090" in source
