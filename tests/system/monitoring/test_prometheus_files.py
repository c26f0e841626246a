"""生成的规则在真的 Prometheus 与 Alertmanager 的工具里：读得懂，坏了触发，别的不跟着触发。"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from meeting_push.monitoring.metrics import PREFIX
from tests.support.alert_cases import CASES, STEP_S, Case, Line
from tools.prometheus_files import FOLDER


def run(tool: str, *arguments: str, cwd: Path = FOLDER) -> str:
    """:return: 打印的；不是 0 就失败"""
    found = shutil.which(tool)
    if found is None:
        pytest.skip(f"no {tool} on PATH")
    done = subprocess.run([found, *arguments], capture_output=True, text=True, cwd=cwd, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_promtool_reads_the_rules() -> None:
    assert f"{len(CASES)} rules found" in run("promtool", "check", "rules", "alerts.yml")


def test_promtool_reads_the_configuration() -> None:
    run("promtool", "check", "config", "prometheus.yml")


def test_amtool_reads_the_configuration() -> None:
    assert "SUCCESS" in run("amtool", "check-config", "alertmanager.yml")


def _series(line: Line, case: Case) -> dict[str, str]:
    calm, bad = case.steps
    name = PREFIX + line.name + ("_total" if line.kind == "counter" else "")
    labels = ",".join(f'{key}="{value}"' for key, value in line.labels.items())
    if line.kind == "gauge":
        values = f"{line.calm}+0x{calm - 1} {line.bad}+0x{bad - 1}"
    else:
        there = line.calm * calm
        values = f"0+{line.calm}x{calm - 1} {there}+{line.bad}x{bad - 1}"
    return {"series": f"{name}{{{labels}}}", "values": values}


def _firing_at(at_s: int, *rule_ids: str) -> dict[str, Any]:
    return {
        "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
        "eval_time": f"{at_s}s",
        "exp_samples": [
            {"labels": f'{{alertname="{one}"}}', "value": 1} for one in sorted(set(rule_ids))
        ],
    }


def _test(rule_id: str, case: Case) -> dict[str, Any]:
    end_s = case.calm_s + case.bad_s - STEP_S
    return {
        "name": rule_id,
        "interval": f"{STEP_S}s",
        "input_series": [_series(line, case) for line in case.lines],
        "promql_expr_test": [
            _firing_at(case.calm_s - STEP_S, "watchdog"),
            _firing_at(end_s, rule_id, "watchdog"),
        ],
    }


@pytest.mark.parametrize("rule_id", CASES)
def test_it_fires_when_it_is_bad_and_nothing_else_does(rule_id: str, tmp_path: Path) -> None:
    rules = str(FOLDER / "alerts.yml")
    tests = {
        "rule_files": [rules],
        "evaluation_interval": f"{STEP_S}s",
        "tests": [_test(rule_id, CASES[rule_id])],
    }
    path = tmp_path / "test.yml"
    path.write_text(yaml.safe_dump(tests))
    assert "SUCCESS" in run("promtool", "test", "rules", str(path))
