"""真的 Prometheus 与 Alertmanager：抓两个进程的节点，真的故障触发，webhook 到这里，清了。"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from tests.support.accounts import sign
from tests.support.eventually import eventually
from tests.support.people import Person, api_of
from tests.support.prometheus_site import PrometheusSite
from tests.support.server_process import ServerProcess

RULE: Final = "authentication_failures_high"
RULES: Final = f"rules: {{{RULE}: {{threshold: 5, window_s: 10}}}}"
WITHIN_S: Final = 30.0


async def fail(server: ServerProcess) -> None:
    """一个坏令牌的请求，每次另一条连接：两个进程都有份。"""
    async with httpx.AsyncClient(base_url=server.base_url, trust_env=False) as client:
        await client.get("/api/v1/messages", headers={"authorization": "Bearer bad"})


@pytest.mark.timeout(150)
async def test_a_real_fault_fires_arrives_here_and_clears(tmp_path: Path) -> None:
    admin = Person(1, "ops", sign(1, "ops", "admin"))
    with ServerProcess(tmp_path, workers=2) as server:
        rules = tmp_path / "ours.yml"
        rules.write_text(RULES)
        site = PrometheusSite(tmp_path / "site", rules, server.port, admin.token)

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
