"""真的 Prometheus 与 Alertmanager：抓两个进程的节点，真的故障触发，webhook 到这里，清了。"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import yaml

from meeting_push.monitoring.alerts.config import load_alerts
from tests.support.accounts import sign
from tests.support.child import Child
from tests.support.eventually import eventually, wait_until
from tests.support.people import Person, api_of
from tests.support.ports import free_port
from tests.support.server_process import ServerProcess
from tools.prometheus_files import files

RULE: Final = "authentication_failures_high"
RULES: Final = f"rules: {{{RULE}: {{threshold: 5, window_s: 10}}}}"
WITHIN_S: Final = 30.0


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"no {name} on PATH")
    return found


class Site:
    """生成的三个文件，只把地址与快慢换成这里的。"""

    def __init__(self, folder: Path, server: ServerProcess, token: str) -> None:
        self.folder = folder
        self.prometheus_port, self.alertmanager_port = free_port(), free_port()
        rules = folder / "ours.yml"
        rules.write_text(RULES)
        texts = files(load_alerts(rules).rules)
        here = {
            "127.0.0.1:9093": f"127.0.0.1:{self.alertmanager_port}",
            "127.0.0.1:8000": f"127.0.0.1:{server.port}",
        }
        for name, text in texts.items():
            for old, new in here.items():
                text = text.replace(old, new)
            (folder / name).write_text(text)
        (folder / "meeting-push.token").write_text(token)
        self._hasten("prometheus.yml", ["global"], scrape_interval="1s", evaluation_interval="1s")
        self._hasten("alertmanager.yml", ["route"], group_wait="1s", group_interval="1s")

    def _hasten(self, name: str, place: list[str], **changes: str) -> None:
        path = self.folder / name
        found: Any = yaml.safe_load(path.read_text())
        inner = found
        for key in place:
            inner = inner[key]
        inner.update(changes)
        path.write_text(yaml.safe_dump(found))

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for command, port in (self._alertmanager(), self._prometheus()):
                log = self.folder / f"{Path(command[0]).name}.log"
                child = Child(command, log, cwd=self.folder)
                stack.callback(lambda child=child: print(child.output))
                stack.callback(child.stop)
                wait_until(lambda port=port: _is_ready(port), WITHIN_S)
            yield

    def _alertmanager(self) -> tuple[list[str], int]:
        command = [
            *(program("prometheus-alertmanager"), "--config.file=alertmanager.yml"),
            *("--storage.path=alertmanager", "--cluster.listen-address="),
            f"--web.listen-address=127.0.0.1:{self.alertmanager_port}",
        ]
        return command, self.alertmanager_port

    def _prometheus(self) -> tuple[list[str], int]:
        command = [
            *(program("prometheus"), "--config.file=prometheus.yml"),
            "--storage.tsdb.path=prometheus",
            f"--web.listen-address=127.0.0.1:{self.prometheus_port}",
        ]
        return command, self.prometheus_port


def _is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/-/ready", trust_env=False).is_success
    except httpx.TransportError:
        return False


async def fail(server: ServerProcess) -> None:
    """一个坏令牌的请求，每次另一条连接：两个进程都有份。"""
    async with httpx.AsyncClient(base_url=server.base_url, trust_env=False) as client:
        await client.get("/api/v1/messages", headers={"authorization": "Bearer bad"})


@pytest.mark.timeout(150)
async def test_a_real_fault_fires_arrives_here_and_clears(tmp_path: Path) -> None:
    program("prometheus")
    admin = Person(1, "ops", sign(1, "ops", "admin"))
    with ServerProcess(tmp_path, workers=2) as server:
        site = Site(tmp_path, server, admin.token)

        async def told(state: str) -> list[dict[str, Any]]:
            async with api_of(server.base_url, admin) as api:
                items = (await api.get("/alerts", params={"state": state})).json()["items"]
            ours = {"rule": RULE, "labels": {"source": "alertmanager"}}
            return [one for one in items if {key: one[key] for key in ours} == ours]

        async def fires() -> list[dict[str, Any]]:
            await fail(server)
            return await told("firing")

        with site.running():
            (fired,) = await eventually(fires, WITHIN_S)

            async def cleared() -> list[dict[str, Any]]:
                return await told("resolved")

            (over,) = await eventually(cleared, 2 * WITHIN_S)
    assert over["alert_id"] == fired["alert_id"]
    assert fired["value"] > 5
    assert fired["threshold"] == 5
    assert fired["runbook"] == f"runbook/{RULE}.md"
    assert "failed authentications" in fired["summary"]
