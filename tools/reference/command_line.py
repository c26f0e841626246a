"""``command-line.md``：``meeting-push`` 的每条命令，连同 ``bench`` 的，选项、缺省、环境变量。"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Final, get_args

import typer

from meeting_push.cli import app
from meeting_push.settings import FLAT, PREFIX
from meeting_push_bench.cli import bench_app

from .pages import DOCS, head, rebased, table

Row = tuple[str, str, str, str, str]
BENCH: Final = "bench"
#: 这么几行以内的，照抄比去找快。
SHORT: Final = 4
_KINDS: Final[dict[object, str]] = {
    int: "整数",
    str: "文字",
    Path: "路径",
    bool: "开关",
    float: "数",
}


def page() -> str:
    return "\n".join((head("command-line"), *_body())).rstrip() + "\n"


def _body() -> Iterator[str]:
    shown: dict[tuple[Row, ...], str] = {}
    for name, command in commands():
        yield f"## {name}\n"
        if said := promised().get(name):
            yield f"{rebased(said, 'contract.md')}\n"
        usage = " ".join((name, *_arguments(command), "[OPTIONS]" if _options(command) else ""))
        yield f"```text\n{usage.strip()}\n\n{' '.join((command.help or '').split())}\n```\n"
        yield from _parameters(name, tuple(_row(one, name) for one in command.params), shown)


def _parameters(
    name: str, rows: tuple[Row, ...], shown: dict[tuple[Row, ...], str]
) -> Iterator[str]:
    """一行不差地说过的（压测的各个 profile），只说同谁。"""
    if (before := shown.setdefault(rows, name)) != name and len(rows) > SHORT:
        yield f"参数同 [{before}](#{before.replace(' ', '-')})。\n"
    elif rows:
        yield from (*table(("参数", "类型", "缺省", "环境变量", "含义"), rows), "")


def commands() -> list[tuple[str, Any]]:
    """每条命令，连同它的全名。``bench`` 是另一个发行包的，排在最后。"""

    def leaves(command: Any, name: str) -> Iterator[tuple[str, Any]]:
        below = getattr(command, "commands", {})
        if not below:
            yield name, command
        for word, child in below.items():
            if word != BENCH:
                yield from leaves(child, f"{name} {word}")

    return [
        *leaves(typer.main.get_command(app), "meeting-push"),
        *leaves(typer.main.get_command(bench_app), f"meeting-push {BENCH}"),
    ]


@cache
def promised() -> dict[str, str]:
    """命令 → 契约的那一行说的；几条合一行的，各有那一句。"""
    text = (DOCS / "contract.md").read_text().partition("\n## 命令行\n")[2].partition("\n## ")[0]
    found: dict[str, str] = {}
    for calls, said in re.findall(r"^\| (`meeting-push .*?) \| (.+) \|$", text, re.MULTILINE):
        for name in re.findall(r"`(meeting-push(?: [a-z]+)+)", calls):
            found[name] = said
    return found


def _arguments(command: Any) -> list[str]:
    given = [one for one in command.params if one.param_type_name == "argument"]
    return [_shown(one) if one.required else f"[{_shown(one)}]" for one in given]


def _options(command: Any) -> bool:
    return any(one.param_type_name == "option" for one in command.params)


def _shown(one: Any) -> str:
    name = str(one.metavar or one.name.upper())
    return f"{name}..." if one.nargs == -1 else name


def _row(one: Any, command: str) -> Row:
    is_option = one.param_type_name == "option"
    words = " · ".join(f"`{word}`" for word in (*one.opts, *one.secondary_opts))
    default = "必填" if one.required else _default(one.default)
    env = "" if command.split()[1] == BENCH else _env(one)  # 压测的与环境变量无关
    return (words if is_option else f"`{_shown(one)}`", _kind(one), default, env, one.help)


def _kind(one: Any) -> str:
    kind = one.type_descriptor.annotation
    if isinstance(kind, UnionType):
        kind = next(each for each in get_args(kind) if each is not NoneType)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return " · ".join(f"`{each.value}`" for each in kind)
    limits = "" if one.max is None else f" {_number(one.min or 0)}…{_number(one.max)}"
    return _KINDS.get(kind, "文字") + limits


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _default(value: object) -> str:
    if value is None or value is False or value in ("", (), []):
        return ""
    return f"`{value.value if isinstance(value, Enum) else value}`"


def _env(one: Any) -> str:
    """自己说的；没有缺省而与一个设置同名的，就是那个设置。"""
    if one.envvar:
        return f"`{one.envvar}`"
    is_setting = one.default is None and one.name in FLAT and one.param_type_name == "option"
    return f"`{PREFIX}{one.name.upper()}`" if is_setting else ""
