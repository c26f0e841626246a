"""``MEETING_PUSH_ALERTS`` 的文件：规则改哪几项；自动处理开哪几样；通知的几节原样交给通知那一边。"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import msgspec
from msgspec import UNSET, Meta, UnsetType

from ...errors import ConfigurationError
from ...settings.yaml_file import read_yaml
from .model import Severity
from .rule import Rule, is_windowed
from .rules import RULES

#: 通知那一边的几节。
NOTICE_SECTIONS: Final = ("channels", "escalate", "quiet_hours")
#: 历史记得的最长。
MAX_WINDOW_S: Final = 6 * 3_600
MAX_FOR_S: Final = 24 * 3_600


class AlertConfig(NamedTuple):
    """``notices``：``NOTICE_SECTIONS`` 里写了的几节，原样。"""

    rules: dict[str, Rule]
    notices: dict[str, Any]
    actions: ActionConfig


class ActionConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """自动处理：哪几样开着。会改变别人看得见的事的（停收、把失败的再送），默认关着。"""

    resubscribe: bool = True
    restart_stalled_loop: bool = True
    pause_accepting: bool = False
    requeue_dead_letters: bool = False


class _RuleIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    enabled: bool | UnsetType = UNSET
    threshold: float | UnsetType = UNSET
    window_s: Annotated[int, Meta(ge=1, le=MAX_WINDOW_S)] | UnsetType = UNSET
    for_s: Annotated[float, Meta(ge=0, le=MAX_FOR_S)] | UnsetType = UNSET
    severity: Severity | UnsetType = UNSET


def load_alerts(path: Path | None) -> AlertConfig:
    """没有文件就是内置的。

    :raises ConfigurationError: 一行话说哪里不对；不含渠道的地址（有密钥）
    """
    if path is None:
        return AlertConfig(dict(RULES), {}, ActionConfig())
    try:
        read = read_yaml(path)
        found = _mapping({} if read is None else read, "the file")
        return AlertConfig(
            _rules(found.get("rules")), _notices(found), _actions(found.get("actions"))
        )
    except (ValueError, msgspec.ValidationError) as error:
        raise ConfigurationError(f"{path}: {error}") from None
    except OSError as error:
        raise ConfigurationError(f"{path} can not be read: {error.strerror}") from None


def _notices(found: Mapping[str, Any]) -> dict[str, Any]:
    known = ("rules", "actions", *NOTICE_SECTIONS)
    if unknown := next((key for key in found if key not in known), None):
        raise ValueError(f"unknown key {unknown}; known are {', '.join(known)}")
    return {name: found[name] for name in NOTICE_SECTIONS if name in found}


def _actions(found: object) -> ActionConfig:
    try:
        return msgspec.convert({} if found is None else found, ActionConfig)
    except msgspec.ValidationError as error:
        raise ValueError(f"actions: {error}") from None


def _rules(found: object) -> dict[str, Rule]:
    rules = dict(RULES)
    for rule_id, change in _mapping({} if found is None else found, "rules").items():
        if rule_id not in rules:
            raise ValueError(f"rules: unknown rule {rule_id}; known are {', '.join(RULES)}")
        try:
            rules[rule_id] = _changed(rules[rule_id], change)
        except ValueError as error:
            raise ValueError(f"rules.{rule_id}: {error}") from None
    return rules


def _changed(rule: Rule, change: object) -> Rule:
    given = msgspec.convert({} if change is None else change, _RuleIn)
    changes = {
        name: value for name, value in msgspec.structs.asdict(given).items() if value is not UNSET
    }
    if "window_s" in changes and not is_windowed(rule.expression):
        raise ValueError("looks at no window, it has no window_s")
    if not math.isfinite(changes.get("threshold", 0.0)):
        raise ValueError("threshold must be finite")
    return msgspec.structs.replace(rule, **changes)


def _mapping(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ValueError(f"{what} must be a map")
    return value
