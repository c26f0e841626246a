"""生成的 Grafana 仪表板：是现在的，编号各不相同，不相叠；式子里的指标与标签都真的有，
真的 Prometheus 都答得出。
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import yaml

from meeting_push.monitoring.alerts.rules import RULES
from tests.support.accounts import sign
from tests.support.event_receivers import SECRET
from tests.support.eventually import eventually
from tests.support.people import device, register, send
from tests.support.ports import free_port
from tests.support.prometheus_site import PrometheusSite
from tests.support.server_process import ServerProcess
from tools.grafana_boards import DASHBOARDS
from tools.grafana_files import FOLDER, SCHEMA, WIDTH, files
from tools.metrics_page import PAGE

BOARDS: Final[list[dict[str, Any]]] = [
    json.loads(text) for name, text in files().items() if name.endswith(".json")
]
ids: Final = [board["uid"] for board in BOARDS]
#: 抓的人加上的，或直方图自己的。
ADDED: Final = {"instance", "process", "le"}
#: Prometheus 自己的。
OWN: Final = {"ALERTS": {"alertstate", "alertname", "severity"}}
WITHIN_S: Final = 60.0


def panels(board: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from board["panels"]


def expressions(board: dict[str, Any]) -> list[str]:
    return [one["expr"] for panel in panels(board) for one in panel.get("targets", ())]


def metrics() -> dict[str, set[str]]:
    """``docs/metrics.md`` 里的（它由跑着的节点写出）：名字 → 标签。"""
    found = {}
    for line in PAGE.read_text().splitlines():
        if match := re.match(r"\| `(\w+)` \| (\S+) \| \S+ \| (.*?) \|", line):
            name, kind, labels = match.groups()
            suffix = "_bucket" if kind == "直方图" else ""
            found[name + suffix] = set(re.findall(r"`(\w+)`", labels)) | ADDED
    return found | OWN


def test_the_files_are_those_of_the_source() -> None:
    written = {
        str(path.relative_to(FOLDER)): path.read_text()
        for path in FOLDER.rglob("*")
        if path.is_file()
    }
    assert written == files(), "run: make grafana"


@pytest.mark.parametrize("board", BOARDS, ids=ids)
def test_every_panel_has_its_own_number_and_place(board: dict[str, Any]) -> None:
    numbers = [panel["id"] for panel in panels(board)]
    assert len(set(numbers)) == len(numbers)
    places = [panel["gridPos"] for panel in panels(board)]
    assert all(one["x"] >= 0 and one["x"] + one["w"] <= WIDTH for one in places)
    assert [pair for pair in combinations(places, 2) if _overlap(*pair)] == []


def _overlap(one: dict[str, int], two: dict[str, int]) -> bool:
    def apart(start: str, size: str) -> bool:
        return one[start] + one[size] <= two[start] or two[start] + two[size] <= one[start]

    return not apart("x", "w") and not apart("y", "h")


@pytest.mark.parametrize("board", BOARDS, ids=ids)
def test_every_metric_and_label_exists(board: dict[str, Any]) -> None:
    known = metrics()
    annotations = [one["expr"] for one in board["annotations"]["list"]]
    for expression in [*expressions(board), *annotations]:
        named = re.findall(r"\b((?:meeting_push|process)_\w+|ALERTS)\{([^}]*)\}", expression)
        assert named, expression
        for name, selector in named:
            assert name in known, expression
            used = set(re.findall(r"(\w+)\s*(?:=~|!=|=)", selector))
            grouped = {
                label
                for group in re.findall(r"\bby \(([^)]*)\)", expression)
                for label in group.split(", ")
            }
            assert used <= known[name], expression
            assert grouped <= known[name], expression


@pytest.mark.parametrize("board", BOARDS, ids=ids)
def test_what_grafana_needs_is_there(board: dict[str, Any]) -> None:
    assert board["schemaVersion"] == SCHEMA
    assert re.fullmatch(r"[\w-]{1,40}", board["uid"])
    assert {one["name"] for one in board["templating"]["list"]} == {
        *("datasource", "instance", "site")
    }
    for panel in panels(board):
        if panel["type"] != "row":
            assert panel["description"].isascii(), panel["title"]
            assert not panel["title"].isspace()
            letters = [one["refId"] for one in panel["targets"]]
            assert sorted(set(letters)) == letters


def test_a_panel_an_alert_watches_names_its_page_of_the_runbook() -> None:
    wanted = {each.rule for one in DASHBOARDS for part in one.sections for each in part.panels}
    pages = {RULES[rule].page for rule in wanted if rule is not None}
    text = json.dumps(BOARDS)
    assert [page for page in pages if f"docs/{page}" not in text] == []
    assert len(pages) > 10


def test_the_provisioning_points_at_the_source_the_dashboards_use() -> None:
    [source] = yaml.safe_load((FOLDER / "provisioning/datasources/meeting-push.yml").read_text())[
        "datasources"
    ]
    chosen = {board["templating"]["list"][0]["current"]["value"] for board in BOARDS}
    assert (chosen, source["type"]) == ({source["uid"]}, "prometheus")
    text = (FOLDER / "provisioning/dashboards/meeting-push.yml").read_text()
    [provider] = yaml.safe_load(text)["providers"]
    assert Path(provider["options"]["path"]).name == "dashboards"


# ── 真的 Prometheus ──────────────────────────────────────────────────────────


@pytest.mark.timeout(180)
async def test_prometheus_answers_every_panel(tmp_path: Path) -> None:
    """两个进程的 ``serve``，有人来、有人送、有人被拒绝。"""
    rules = tmp_path / "rules.yml"
    rules.write_text("rules: {}")
    hooks = tmp_path / "hooks.yaml"
    hooks.write_text(f"- {{url: 'http://127.0.0.1:{free_port()}/', secret: {SECRET}}}\n")
    with ServerProcess(tmp_path, workers=2, settings={"webhooks": str(hooks)}) as server:
        site = PrometheusSite(tmp_path / "site", rules, server.port, sign(1, "ops", "admin"))
        with site.running():
            alice = await register(server.base_url, "alice")
            async with device(server.ws_url(alice.user_id), alice) as phone:
                await phone.ack(await send(server.base_url, alice, [alice]))
                async with httpx.AsyncClient(base_url=server.base_url, trust_env=False) as client:
                    await client.get("/api/v1/messages", headers={"authorization": "Bearer bad"})

                silent = {each for board in BOARDS for each in expressions(board)}

                def all_told() -> bool:
                    for expression in list(silent):
                        if site.ask(_chosen(expression)):
                            silent.remove(expression)
                    return not silent

                try:
                    await eventually(all_told, WITHIN_S)
                finally:
                    assert list(silent) == []


def _chosen(expression: str) -> str:
    """变量取默认的。"""
    return expression.replace("$instance", ".+").replace("$__rate_interval", "30s")
