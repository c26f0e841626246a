"""渠道、升级、安静的时段：告警文件里的三节，读进来的 Python 值 → 检查过的结构。

每一处错都是一行话（退出码 2），说是哪一个渠道、哪一个键；地址里的密钥不在里面。
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from datetime import time
from itertools import pairwise
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from ...errors import ConfigurationError
from ..alerts.model import Severity
from .channel import GROUP_S, Address, Channel, Escalation, Language, NoticeConfig, QuietHours

#: 机器人每分钟收这么多（钉钉、企微的文档），多了封十分钟。
ROBOT_RATE: Final = 20
_ROBOTS: Final = frozenset({"dingtalk+https", "dingtalk+http", "wecom+https", "wecom+http"})
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_TIME: Final = re.compile(r"([01]\d|2[0-3]):([0-5]\d)\Z")

_CHANNEL_KEYS: Final = frozenset(
    {"name", "url", "min_severity", "group_s", "rate_per_min", "fallback", "language", "watchdog"}
)


def log_only() -> NoticeConfig:
    """没有告警文件：写日志。"""
    return NoticeConfig((Channel(name="log", address=Address("log://"), group_s=0),))


def _group_s(address: Address) -> float:
    """日志一条一行，没有什么好攒的。"""
    return 0 if address.scheme == "log" else GROUP_S


def notice_config(channels: object, escalate: object, quiet_hours: object) -> NoticeConfig:
    """文件里的三节；没有写的那一节给 None。没有 ``channels`` 就是写日志。

    :raises ConfigurationError: 一行话
    """
    known = log_only().channels if channels is None else _channels(channels)
    names = {channel.name for channel in known}
    _check_fallbacks(known)
    quiet = None if quiet_hours is None else _quiet_hours(quiet_hours)
    return NoticeConfig(known, _escalations(escalate, names, known), quiet)


def _channels(raw: object) -> tuple[Channel, ...]:
    channels = tuple(
        _channel(f"channels[{n}]", one) for n, one in enumerate(_list("channels", raw))
    )
    seen: set[str] = set()
    for channel in channels:
        if channel.name in seen:
            raise ConfigurationError(f"channels: {channel.name!r} is there twice")
        seen.add(channel.name)
    return channels


def _channel(where: str, raw: object) -> Channel:
    given = _map(where, raw, _CHANNEL_KEYS, required=("name", "url"))
    name = given["name"]
    if not isinstance(name, str) or _NAME.match(name) is None:
        raise ConfigurationError(f"{where}.name: up to 64 of A-Z a-z 0-9 . _ -")
    where = f"channel {name!r}"
    address = _address(where, given["url"])
    is_watchdog = _flag(f"{where}: watchdog", given.get("watchdog", False))
    rate = given.get("rate_per_min", ROBOT_RATE if address.scheme in _ROBOTS else 0)
    return Channel(
        name=name,
        address=address,
        min_severity=_severity(f"{where}: min_severity", given.get("min_severity", "info")),
        group_s=_seconds(f"{where}: group_s", given.get("group_s", _group_s(address)), least=0),
        rate_per_min=_rate(f"{where}: rate_per_min", rate),
        fallback=_optional_name(f"{where}: fallback", given.get("fallback")),
        language=_language(f"{where}: language", given.get("language", "zh")),
        watchdog=is_watchdog,
    )


def _address(where: str, raw: object) -> Address:
    if not isinstance(raw, str):
        raise ConfigurationError(f"{where}: url is not a string")
    try:
        return Address(raw)
    except ConfigurationError as error:
        raise ConfigurationError(f"{where}: url {error.message}") from None


def _check_fallbacks(channels: Iterable[Channel]) -> None:
    by_name = {channel.name: channel for channel in channels}
    for channel in by_name.values():
        path = [channel.name]
        while (following := by_name[path[-1]].fallback) is not None:
            if following not in by_name:
                raise ConfigurationError(
                    f"channel {path[-1]!r}: fallback {following!r} is no channel"
                )
            if by_name[following].watchdog:
                raise ConfigurationError(
                    f"channel {path[-1]!r}: fallback {following!r} takes the watchdog only"
                )
            if following in path:
                raise ConfigurationError(f"fallback goes in a loop: {_arrows([*path, following])}")
            path.append(following)


def _escalations(
    raw: object, names: set[str], channels: Iterable[Channel]
) -> tuple[Escalation, ...]:
    if raw is None:
        return ()
    steps: list[Escalation] = []
    for number, one in enumerate(_list("escalate", raw)):
        where = f"escalate[{number}]"
        given = _map(where, one, frozenset({"after_s", "to"}), required=("after_s", "to"))
        after_s = _seconds(f"{where}.after_s", given["after_s"], least=1)
        steps.append(Escalation(after_s, _known(f"{where}.to", given["to"], names)))
    _check_escalation(steps, {channel.name for channel in channels if channel.watchdog})
    return tuple(steps)


def _check_escalation(steps: list[Escalation], watchdogs: set[str]) -> None:
    for number, (before, step) in enumerate(pairwise(steps), 1):
        if step.after_s <= before.after_s:
            raise ConfigurationError(f"escalate[{number}].after_s is not later than the one before")
    told = [step.to for step in steps]
    for name in told:
        if told.count(name) > 1:
            raise ConfigurationError(f"escalation goes in a loop: {_arrows(told)}")
        if name in watchdogs:
            raise ConfigurationError(f"escalate: {name!r} takes the watchdog only")


def _quiet_hours(raw: object) -> QuietHours:
    keys = ("from", "to", "tz", "pierced_by")
    given = _map("quiet_hours", raw, frozenset(keys), required=("from", "to", "tz"))
    start = _time("quiet_hours.from", given["from"])
    end = _time("quiet_hours.to", given["to"])
    if start == end:
        raise ConfigurationError("quiet_hours: from and to are the same")
    pierced_by = _severity("quiet_hours.pierced_by", given.get("pierced_by", "critical"))
    return QuietHours(start, end, _zone(given["tz"]), pierced_by)


def _zone(raw: object) -> ZoneInfo:
    if isinstance(raw, str):
        try:
            return ZoneInfo(raw)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            pass
    raise ConfigurationError(f"quiet_hours.tz: {raw!r} is no time zone this machine knows")


def _time(where: str, raw: object) -> time:
    if isinstance(raw, int) and not isinstance(raw, bool) and 0 <= raw < 24 * 60:
        return time(raw // 60, raw % 60)  # YAML 1.1 把没加引号的 22:00 读作六十进制的整数
    found = _TIME.match(raw) if isinstance(raw, str) else None
    if found is None:
        raise ConfigurationError(f'{where}: {raw!r} is no "HH:MM"')
    return time(int(found[1]), int(found[2]))


# ── 一个值一个值地 ───────────────────────────────────────────────────────────


def _list(where: str, raw: object) -> list[object]:
    if not isinstance(raw, list) or not raw:
        raise ConfigurationError(f"{where}: is not a list with something in it")
    return raw


def _map(
    where: str, raw: object, keys: frozenset[str], *, required: Iterable[str]
) -> Mapping[str, object]:
    if not isinstance(raw, dict):
        raise ConfigurationError(f"{where}: is not a mapping")
    for key in raw:
        if key not in keys:
            raise ConfigurationError(f"{where}: unknown key {key!r}; known: {sorted(keys)}")
    for key in required:
        if raw.get(key) is None:
            raise ConfigurationError(f"{where}: has no {key!r}")
    return raw


def _severity(where: str, raw: object) -> Severity:
    try:
        return Severity(raw)  # type: ignore[arg-type]  # 不是字符串的也在这里被拒
    except ValueError:
        raise ConfigurationError(f"{where}: {raw!r} is none of {_named(Severity)}") from None


def _named(kind: type[Severity]) -> str:
    return ", ".join(kind)


def _seconds(where: str, raw: object, *, least: float) -> float:
    number = raw if isinstance(raw, int | float) else math.nan
    if not isinstance(raw, bool) and least <= number <= 7 * 24 * 3600:  # nan 两头都不在
        return float(number)
    raise ConfigurationError(f"{where}: {raw!r} is no number of seconds from {least:g} to 604800")


def _rate(where: str, raw: object) -> int:
    if isinstance(raw, int) and not isinstance(raw, bool) and 0 <= raw <= 10_000:
        return raw
    raise ConfigurationError(f"{where}: {raw!r} is no whole number from 0 (no limit) to 10000")


def _flag(where: str, raw: object) -> bool:
    if isinstance(raw, bool):
        return raw
    raise ConfigurationError(f"{where}: {raw!r} is neither true nor false")


def _language(where: str, raw: object) -> Language:
    if raw == "zh":
        return "zh"
    if raw == "en":
        return "en"
    raise ConfigurationError(f"{where}: {raw!r} is neither zh nor en")


def _optional_name(where: str, raw: object) -> str | None:
    if raw is None or isinstance(raw, str):
        return raw
    raise ConfigurationError(f"{where}: {raw!r} is no name of a channel")


def _known(where: str, raw: object, names: set[str]) -> str:
    if isinstance(raw, str) and raw in names:
        return raw
    raise ConfigurationError(f"{where}: {raw!r} is no channel")


def _arrows(path: list[str]) -> str:
    return " -> ".join(path)
