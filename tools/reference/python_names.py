"""``docs/reference/python.md``：``meeting_push.__all__`` 的每一个名字：签名与说明。"""

from __future__ import annotations

import ast
import enum
import importlib
import importlib.util
import inspect
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Final

import meeting_push
from meeting_push import client, errors

from .docstrings import markdown
from .pages import cell, head, table
from .signatures import names_in, written

_RESULTS: Final = "从方法得到的"
_GROUPS: Final = ("内嵌", "应用带来的", "设置", "SDK", "事件", "名词", "同步的后端")
_HOMES: Final = {"contracts": "应用带来的", "settings": "设置", "protocol": "事件"}
_NOUNS: Final = ("model", "meeting_model", "version", "")
#: 由应用构造的；别的类由 ``MeetingPush`` 造。
_CONSTRUCTED: Final = {
    *("MeetingPush", "PushClient", "RestClient", "TokenKeeper", "StateFile", "MemoryStore"),
    *("Publisher", "OutboxPublisher"),
}
#: 参数里有它们的，是各站之间的，应用造不出。
_INNER: Final = {
    *("Handshake", "Driver", "EventDriver", "Supervisor", "Check", "Listener", "Command"),
    *("Source", "HistogramSource", "FamilySource", "LatencyHistogram", "SqlConnection"),
    *("Outgoing", "Bringer", "SomeLine", "Pushed", "Ack", "Revocation", "ResumePoint", "Revoke"),
    *("Delivery", "Body", "Origin", "LineHost", "Charge", "AckOutcome"),
}


def page() -> str:
    return "\n".join((head("python"), *_body())).rstrip() + "\n"


def groups() -> dict[str, dict[str, Any]]:
    """组 → 名字 → 那一样东西。"""
    found: dict[str, dict[str, Any]] = {group: {} for group in (*_GROUPS, "错误")}
    for name in meeting_push.__all__:
        each = getattr(meeting_push, name)
        found[_group_of(name, each)][name] = each
    sync = importlib.import_module("meeting_push.sync")
    found["同步的后端"] = {name: getattr(sync, name) for name in ("Publisher", "OutboxPublisher")}
    return found


def _group_of(name: str, each: Any) -> str:
    """住在哪里，就是哪一组。"""
    if inspect.isclass(each) and issubclass(each, Exception):
        return "错误"
    if name in client.__all__:
        return "SDK"
    if name == "Principal":
        return "应用带来的"
    home = str(getattr(each, "__module__", "")).partition(".")[2].partition(".")[0]
    if home in _HOMES:
        return _HOMES[home]
    return "名词" if home in _NOUNS else "内嵌"


def _body() -> Iterator[str]:
    members = groups()
    for group in _GROUPS:
        yield f"## {group}\n"
        if group == "同步的后端":
            yield "从 `meeting_push.sync` 导入。\n"
        for name, each in sorted(
            members[group].items(), key=lambda one: (one[0] != "MeetingPush", one[0])
        ):
            yield from _section(name, each)
    yield f"## {_RESULTS}\n"
    for name, kind in results(members).items():
        yield from _section(name, kind)
    yield "## 错误\n"
    yield from _errors(members["错误"])


def _errors(members: Mapping[str, Any]) -> Iterator[str]:
    root = errors.MeetingPushError.__name__
    yield f"`{root}` 是根；`code`、`temporary`、`message`、`details`、`cause` 各个都有。\n"
    ordered = sorted(members.items(), key=lambda one: (one[0] != "MeetingPushError", one[0]))
    rows = (_error(name, kind) for name, kind in ordered)
    yield from (*table(("名字", "父类", "code", "含义"), rows), "")


def _error(name: str, kind: type[Exception]) -> tuple[str, str, str, str]:
    code = getattr(kind, "code", "")
    said = (inspect.getdoc(kind) or "").split("\n\n")[0]
    return f"`{name}`", f"`{kind.__bases__[0].__name__}`", f"`{code}`" if code else "", said


def _section(name: str, each: Any) -> Iterator[str]:
    yield f"### {name}\n"
    if name == "__version__":
        yield "版本，一段字。\n"
    elif isinstance(each, str):
        yield f"`{each!r}`\n"
    elif inspect.isclass(each):
        yield from _class(name, each)
    else:
        yield from _callable(each, each.__name__)


def _class(name: str, kind: type) -> Iterator[str]:
    if _is_constructed(name, kind):
        yield f"```py\n{written(name, kind)}\n```\n"
    if said := _documented(kind):
        yield f"{markdown(said)}\n"
    if name == "Settings":
        yield "全部的项：[设置](../settings.md)。\n"
    elif issubclass(kind, enum.Enum):
        yield from (*table(("成员", "值"), ((f"`{m.name}`", f"`{m.value}`") for m in kind)), "")
    else:
        yield from _members(name, kind)


def _members(name: str, kind: type) -> Iterator[str]:
    methods = list(shown_methods(kind))
    rows = [(f"`{label}`", _first(each)) for label, each in methods if isinstance(each, property)]
    if rows:
        yield from (*table(("属性", "含义"), rows), "")
    for label, each in methods:
        if not isinstance(each, property):
            yield f"#### {name}.{label}\n"
            yield from _callable(each, label)


def _is_constructed(name: str, kind: type) -> bool:
    """有字段的名词与由应用构造的；协议、枚举、别人造的不是。"""
    if getattr(kind, "_is_protocol", False) or issubclass(kind, enum.Enum):
        return False
    return _has_fields(kind) or name in _CONSTRUCTED


def _has_fields(kind: type) -> bool:
    return (
        hasattr(kind, "__struct_fields__")
        or hasattr(kind, "__dataclass_fields__")
        or (issubclass(kind, tuple) and hasattr(kind, "_fields"))
    )


def _documented(kind: type) -> str:
    """自己的说明；dataclass 与命名元组自动有的那一行不算。"""
    own = inspect.cleandoc(kind.__doc__ or "")
    return "" if own.startswith(f"{kind.__name__}(") else own


def _first(each: Any) -> str:
    return cell((inspect.getdoc(each) or "").split("\n\n")[0])


def shown_methods(kind: type) -> Iterator[tuple[str, Any]]:
    """自己与我们的父类定义的，公开的，应用叫得了的，照写下的次序。"""
    seen: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if base.__module__.startswith("meeting_push"):
            seen |= vars(base)
    for label, raw in seen.items():
        each = raw.__func__ if isinstance(raw, classmethod | staticmethod) else raw
        if label.startswith("_") or not (inspect.isroutine(each) or isinstance(each, property)):
            continue
        if isinstance(each, property) or _is_for_applications(kind, label, each):
            yield label, each


def _is_for_applications(kind: type, label: str, each: Any) -> bool:
    """``on_…`` 是各站叫彼此的，SDK 的除外；参数里有站内的东西的，应用叫不了。"""
    if label.startswith("on_") and kind.__name__ not in client.__all__:
        return False
    return not names_in(each, answers=False) & _INNER


def _callable(each: Any, name: str) -> Iterator[str]:
    prefix = "async def " if inspect.iscoroutinefunction(inspect.unwrap(each)) else "def "
    yield f"```py\n{prefix}{written(name, each)}\n```\n"
    if said := inspect.getdoc(each):
        yield f"{markdown(said)}\n"


# ── 没有导出、而方法给出的 ───────────────────────────────────────────────────


def results(members: Mapping[str, Mapping[str, Any]]) -> dict[str, type]:
    """写在签名里、有字段、没有导出的类，按名字；只看一层。"""
    found: dict[str, type] = {}
    for each in (one for group in members.values() for one in group.values()):
        if inspect.isclass(each) and not issubclass(each, Exception | enum.Enum):
            for _, method in shown_methods(each):
                if not isinstance(method, property):
                    found |= dict(_nouns_in(method))
    return {name: kind for name, kind in sorted(found.items()) if name not in meeting_push.__all__}


def _nouns_in(method: Any) -> Iterator[tuple[str, type]]:
    home = inspect.unwrap(method).__module__
    for name in names_in(method):
        kind = _named(name, home)
        if not inspect.isclass(kind) or not kind.__module__.startswith("meeting_push."):
            continue
        if _has_fields(kind):
            yield name, kind


def _named(name: str, home: str) -> Any:
    """模块 ``home`` 里的 ``name``，只给类型检查导入的也算。"""
    module = importlib.import_module(home)
    if name in vars(module):
        return vars(module)[name]
    source = _imported(home).get(name)
    return getattr(importlib.import_module(source), name, None) if source else None


@cache
def _imported(home: str) -> dict[str, str]:
    """名字 → 从哪个模块导入。"""
    module = importlib.import_module(home)
    found: dict[str, str] = {}
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.ImportFrom):
            relative = "." * node.level + (node.module or "")
            source = importlib.util.resolve_name(relative, module.__package__)
            found |= dict.fromkeys((one.asname or one.name for one in node.names), source)
    return found
