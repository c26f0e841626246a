"""写出 ``deploy/grafana/``：三张 Grafana 仪表板，与装上它们的配置（``make grafana``）。"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from meeting_push.monitoring.alerts.rule import Comparison, Rule
from meeting_push.monitoring.alerts.rules import RULES
from tools.grafana_boards import DASHBOARDS
from tools.grafana_panels import Dashboard, Panel

FOLDER: Final = Path(__file__).resolve().parent.parent / "deploy" / "grafana"
#: Grafana 10.4 与 11 的格式。
SCHEMA: Final = 39
WIDTH: Final = 24
_GENERATED: Final = "# 由 tools/grafana_files.py 生成，别在这里改。\n"
#: 装上的数据源的名字；每张仪表板的变量可以换成别的 Prometheus。
_SOURCE_UID: Final = "meeting-push-prometheus"
_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
#: 装仪表板的文件夹，在 Grafana 的机器上。
_THERE: Final = "/etc/grafana/meeting-push"
_OPS: Final = "${site}/ops"
#: 阈值用它们的单位时才画成红线：别的图画的不是规则看的那个数。
_SAME_FIGURE: Final = {"percentunit": "ratio", "s": "seconds"}


def files() -> dict[str, str]:
    """路径（相对 ``deploy/grafana/``）→ 全文。"""
    boards = {f"dashboards/{one.uid}.json": _json(dashboard(one)) for one in DASHBOARDS}
    return {
        "provisioning/datasources/meeting-push.yml": _GENERATED + _yaml(_datasources()),
        "provisioning/dashboards/meeting-push.yml": _GENERATED + _yaml(_provider()),
        **boards,
    }


def _datasources() -> dict[str, Any]:
    return {
        "apiVersion": 1,
        "datasources": [
            {
                "name": "meeting-push",
                "uid": _SOURCE_UID,
                "type": "prometheus",
                "access": "proxy",
                "url": "http://127.0.0.1:9090",
                # 抓的间隔：``$__rate_interval`` 由它算出
                "jsonData": {"timeInterval": "5s", "httpMethod": "POST"},
            }
        ],
    }


def _provider() -> dict[str, Any]:
    return {
        "apiVersion": 1,
        "providers": [
            {
                "name": "meeting-push",
                "folder": "meeting-push",
                "type": "file",
                "allowUiUpdates": False,
                "options": {"path": f"{_THERE}/dashboards"},
            }
        ],
    }


def dashboard(one: Dashboard) -> dict[str, Any]:
    return {
        "uid": one.uid,
        "title": one.title,
        "description": one.text,
        "tags": ["meeting-push"],
        "schemaVersion": SCHEMA,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "timezone": "browser",
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": list(_variables())},
        "annotations": {"list": [_alerts_on_the_curves()]},
        "links": [
            {
                "type": "link",
                "title": "运维页 /ops",
                "url": _OPS,
                "icon": "external link",
                "targetBlank": True,
                "tooltip": "alerts, users, messages",
            },
            {
                "type": "dashboards",
                "title": "别的仪表板",
                "tags": ["meeting-push"],
                "asDropdown": True,
                "keepTime": True,
                "includeVars": True,
            },
        ],
        "panels": list(_panels(one)),
    }


def _variables() -> Iterator[dict[str, Any]]:
    yield {
        "name": "datasource",
        "label": "Prometheus",
        "type": "datasource",
        "query": "prometheus",
        "current": {"text": "meeting-push", "value": _SOURCE_UID},
        "hide": 0,
    }
    yield {
        "name": "instance",
        "label": "serve",
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": "label_values(meeting_push_processes, instance)", "refId": "instance"},
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".+",
        "current": {"text": "All", "value": "$__all"},
        "hide": 0,
    }
    yield {
        "name": "site",
        "label": "网址",
        "description": "MEETING_PUSH_ALERTS_SITE",
        "type": "textbox",
        "query": "http://127.0.0.1:8000",
        "current": {"text": "http://127.0.0.1:8000", "value": "http://127.0.0.1:8000"},
        "hide": 0,
    }


def _alerts_on_the_curves() -> dict[str, Any]:
    return {
        "name": "告警",
        "enable": True,
        "hide": False,
        "iconColor": "red",
        "datasource": _SOURCE,
        "expr": 'ALERTS{alertstate="firing",severity=~"warning|critical"}',
        "step": "30s",
        "titleFormat": "{{alertname}}",
        "textFormat": "{{severity}} · docs/runbook/{{alertname}}.md",
        "tagKeys": "severity",
    }


# ── 面板 ─────────────────────────────────────────────────────────────────────


def _panels(one: Dashboard) -> Iterator[dict[str, Any]]:
    number, top = 0, 0
    for section in one.sections:
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": section.title,
            "collapsed": False,
            "gridPos": {"x": 0, "y": top, "w": WIDTH, "h": 1},
            "panels": [],
        }
        top += 1
        left = tallest = 0
        for panel in section.panels:
            if left + panel.width > WIDTH:
                left, top, tallest = 0, top + tallest, 0
            number += 1
            place = {"x": left, "y": top, "w": panel.width, "h": panel.height}
            yield {"id": number, "gridPos": place, **_panel(panel)}
            left, tallest = left + panel.width, max(tallest, panel.height)
        top += tallest


def _panel(panel: Panel) -> dict[str, Any]:
    rule = RULES[panel.rule] if panel.rule is not None else None
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.text if rule is None else _with_runbook(panel, rule),
        "datasource": _SOURCE,
        "targets": list(_targets(panel)),
        "fieldConfig": {"defaults": _defaults(panel, rule), "overrides": []},
        "options": _OPTIONS[panel.kind],
        **({} if rule is None else {"links": [_to_alerts(rule)]}),
    }


def _with_runbook(panel: Panel, rule: Rule) -> str:
    return f"{panel.text}\n\nAlert: {rule.rule_id}. Runbook: docs/{rule.page}"


def _to_alerts(rule: Rule) -> dict[str, Any]:
    title = f"{rule.rule_id}: docs/{rule.page}"
    return {"title": title, "url": f"{_OPS}#alerts", "targetBlank": True}


def _targets(panel: Panel) -> Iterator[dict[str, Any]]:
    for letter, (expression, legend) in zip("ABCDEF", panel.queries, strict=False):
        yield {
            "refId": letter,
            "datasource": _SOURCE,
            "expr": expression,
            "legendFormat": legend,
            "instant": panel.kind != "timeseries",
            "range": panel.kind == "timeseries",
            "format": "table" if panel.kind == "table" else "time_series",
        }


def _defaults(panel: Panel, rule: Rule | None) -> dict[str, Any]:
    found: dict[str, Any] = {"unit": panel.unit, "color": {"mode": "palette-classic"}}
    if panel.kind == "timeseries":
        if panel.rule != "clock_skew":  # 只有它有正有负
            found["min"] = 0
        found["custom"] = {"lineWidth": 1, "fillOpacity": 8, "showPoints": "never"}
    if rule is not None and _SAME_FIGURE.get(panel.unit) == rule.unit:
        found["thresholds"] = _thresholds(rule)
        found.setdefault("custom", {})["thresholdsStyle"] = {"mode": "dashed"}
    return found


def _thresholds(rule: Rule) -> dict[str, Any]:
    calm, bad = ("green", "red") if rule.comparison is Comparison.ABOVE else ("red", "green")
    steps = [{"color": calm, "value": None}, {"color": bad, "value": rule.threshold}]
    return {"mode": "absolute", "steps": steps}


_OPTIONS: Final[dict[str, dict[str, Any]]] = {
    "timeseries": {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "stat": {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "value",
        "graphMode": "none",
        "textMode": "value",
    },
    "table": {"showHeader": True, "cellHeight": "sm"},
}


def _json(data: dict[str, Any]) -> str:
    return json.dumps(data, ensure_ascii=False, indent=1) + "\n"


def _yaml(data: dict[str, Any]) -> str:
    return yaml.safe_dump(data, allow_unicode=True, sort_keys=False, width=100)


def main() -> None:
    for name, text in files().items():
        path = FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main()
