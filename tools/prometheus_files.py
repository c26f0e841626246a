"""由规则写出 ``deploy/prometheus/`` 的三个文件。

自己改过规则的：``python tools/prometheus_files.py alerts.yml FOLDER``，第一个是
``MEETING_PUSH_ALERTS`` 的文件。
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, Final

import yaml

from meeting_push.monitoring.alerts.config import load_alerts
from meeting_push.monitoring.alerts.rule import Rule, Unit, condition, duration, shown
from meeting_push.monitoring.alerts.rules import RULES

FOLDER: Final = Path(__file__).resolve().parent.parent / "deploy" / "prometheus"
_GENERATED: Final = "# 由 tools/prometheus_files.py 从内置的规则生成，别在这里改。\n"
#: 规则以为的那样：5 秒一次。
_EVERY: Final = "5s"
_VALUES: Final[dict[Unit, str]] = {
    "ratio": "{{ $value | humanizePercentage }}",
    "seconds": "{{ $value | humanizeDuration }}",
}
_WATCHDOG: Final = "watchdog"

_PROMETHEUS_HEAD: Final = (
    _GENERATED + "# targets：每个 serve 的一个端口；抓一次就是它全部的进程。\n"
)
_ALERTMANAGER_HEAD: Final = (
    _GENERATED
    + "# 交给我们的渠道；令牌是管理员的：meeting-push token --role admin --user-id 1\n"
    + "# watchdog 总在触发：接到一个“死人开关”上，收不到它时由那一边报警。\n"
)


def files(rules: dict[str, Rule]) -> dict[str, str]:
    """文件名 → 全文。"""
    return {
        "alerts.yml": _GENERATED + _yaml(_alerts(rules)),
        "prometheus.yml": _PROMETHEUS_HEAD + _yaml(_prometheus()),
        "alertmanager.yml": _ALERTMANAGER_HEAD + _yaml(_alertmanager()),
    }


def _alerts(rules: dict[str, Rule]) -> dict[str, Any]:
    # watchdog 默认不开，是内置的那一边没有死人开关；这里的总在
    wanted = [one for one in rules.values() if one.enabled or one.rule_id == _WATCHDOG]
    return {"groups": [{"name": "meeting-push", "rules": [_rule(one) for one in wanted]}]}


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "alert": rule.rule_id,
        "expr": condition(rule),
        "for": f"{rule.for_s:g}s",
        "labels": {"severity": rule.severity.value},
        "annotations": {
            "summary": _template(rule, rule.summary.en),
            "summary_zh": _template(rule, rule.summary.zh),
            "value": "{{ $value }}",
            "threshold": f"{rule.threshold:g}",
            "runbook": rule.page,
        },
    }


def _template(rule: Rule, text: str) -> str:
    """我们的 ``{名字}`` → Prometheus 的模板。"""
    known = {
        "value": _VALUES.get(rule.unit, "{{ $value }}"),
        "threshold": shown(rule.threshold, rule.unit),
        "window": duration(rule.window_s),
        "node": "{{ $labels.instance }} {{ $labels.process }}",
    }
    return re.sub(r"\{(\w+)\}", lambda one: known.get(one[1], f"{{{{ $labels.{one[1]} }}}}"), text)


def _prometheus() -> dict[str, Any]:
    return {
        "global": {"scrape_interval": _EVERY, "evaluation_interval": _EVERY},
        "rule_files": ["alerts.yml"],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": ["127.0.0.1:9093"]}]}]},
        "scrape_configs": [
            {
                "job_name": "meeting-push",
                "static_configs": [{"targets": ["127.0.0.1:8000"]}],
            }
        ],
    }


def _alertmanager() -> dict[str, Any]:
    ours = {
        "url": "http://127.0.0.1:8000/api/v1/alerts/alertmanager",
        "send_resolved": True,
        "max_alerts": 1_000,
        "http_config": {"authorization": {"credentials_file": "meeting-push.token"}},
    }
    return {
        "route": {
            "receiver": "meeting-push",
            "group_by": ["alertname"],
            "group_wait": "10s",
            "group_interval": "30s",
            "repeat_interval": "4h",
            "routes": [{"matchers": [f'alertname="{_WATCHDOG}"'], "receiver": _WATCHDOG}],
        },
        # Redis 不在，后面的几条多半是它的影子
        "inhibit_rules": [
            {
                "source_matchers": ['alertname="redis_unavailable"'],
                "target_matchers": [
                    'alertname=~"redis_slow|deaf_node|consumer_stalled|queue_lag_high"'
                ],
            }
        ],
        "receivers": [
            {"name": "meeting-push", "webhook_configs": [ours]},
            {"name": _WATCHDOG},
        ],
    }


def _yaml(data: dict[str, Any]) -> str:
    return yaml.safe_dump(data, allow_unicode=True, sort_keys=False, width=100)


def main(arguments: list[str]) -> None:
    source, *rest = arguments or [""]
    rules = load_alerts(Path(source)).rules if source else RULES
    folder = Path(rest[0]) if rest else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files(dict(rules)).items():
        (folder / name).write_text(text)


if __name__ == "__main__":
    main(sys.argv[1:])
