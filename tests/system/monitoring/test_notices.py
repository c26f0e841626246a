"""通知，真的进程：真的故障触发，签了名的 webhook 到这里，清了再来一次；文件不对就不启动。"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.support.accounts import sign
from tests.support.notice_receivers import Received, http_receiver
from tests.support.people import Person, api_of
from tests.support.server_process import ServerProcess

RULE = "authentication_failures_high"
ADMIN = Person(1, "ops", sign(1, "ops", "admin"))
WITHIN_S = 30.0


def written(tmp_path: Path, *channels: dict[str, Any], **sections: object) -> Path:
    path = tmp_path / "alerts.yml"
    rules = {RULE: {"threshold": 1, "window_s": 5, "for_s": 0}}
    path.write_text(yaml.safe_dump({"rules": rules, "channels": list(channels), **sections}))
    return path


def hook(host: str, name: str = "hook", **given: object) -> dict[str, Any]:
    return {"name": name, "url": f"webhook+http://{host}/{name}?secret=s", "group_s": 0.2, **given}


async def fail(server: ServerProcess) -> None:
    """几个坏令牌的请求，每次另一条连接：两个进程都有份。"""
    for _ in range(6):
        async with httpx.AsyncClient(base_url=server.base_url, trust_env=False) as client:
            await client.get("/api/v1/messages", headers={"authorization": "Bearer bad"})


def of_the_rule(got: Received) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(got.body)["data"]
    (one,) = [alert for alert in data["alerts"] if alert["rule"] == RULE]
    assert data["ops"].endswith("/ops")
    return {**one, "text": data["text"]}


@pytest.mark.timeout(120)
async def test_a_real_fault_is_notified_and_so_is_its_end(tmp_path: Path) -> None:
    async with http_receiver() as there, http_receiver() as boss:
        file = written(
            tmp_path,
            hook(there.host),
            hook(boss.host, "boss", min_severity="info"),
            escalate=[{"after_s": 1, "to": "boss"}],
        )
        settings = {"alerts": file, "alerts_interval_s": 0.3, "stats_interval_s": 0.3}
        with ServerProcess(tmp_path, workers=2, settings=settings) as server:
            await fail(server)
            first, second = await there.arrived(2, WITHIN_S)
            fired, over = of_the_rule(first), of_the_rule(second)
            _, escalated, _ = await boss.arrived(3, WITHIN_S)
            async with api_of(server.base_url, ADMIN) as api:
                answer = await api.post("/alerts/test", json={"channel": "hook"})
                metrics = (await api.get(f"{server.base_url}/metrics")).text
    assert (fired["state"], over["state"]) == ("firing", "resolved")
    assert fired["alert_id"] == over["alert_id"]
    assert fired["value"] > fired["threshold"] == 1
    assert f"docs/runbook/{RULE}.md" in fired["text"]
    assert json.loads(escalated.body)["data"]["escalation"] is True
    assert answer.is_success
    assert json.loads(there.requests[-1].body)["data"]["test"] is True
    assert 'meeting_push_notices_failed_total{channel="webhook"' in metrics


@pytest.mark.timeout(60)
def test_a_file_with_a_loop_of_fallbacks_is_exit_2_and_shows_no_secret(tmp_path: Path) -> None:
    secret = "SECRETSECRET"
    channels = [
        {"name": "a", "url": f"webhook+http://h/?secret={secret}", "fallback": "b"},
        {"name": "b", "url": f"mailto://u:{secret}@h?to=a@b", "fallback": "a"},
    ]
    environment = {key: value for key, value in os.environ.items() if "MEETING_PUSH" not in key}
    result = subprocess.run(
        [sys.executable, "-m", "meeting_push", "serve", "--data-dir", str(tmp_path / "data")],
        env=environment | {"MEETING_PUSH_ALERTS": str(written(tmp_path, *channels))},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert result.returncode == 2, result
    assert "a -> b -> a" in result.stderr
    assert secret not in result.stdout + result.stderr
