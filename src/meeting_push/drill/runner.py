"""``meeting-push drill``：选哪几个、在哪里做，印出经过、一张表，定退出码。"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

import msgspec
from rich.console import Console
from rich.markup import escape

from ..errors import ConfigurationError
from ..logs import plain, plain_json
from . import DRILLS, WITHOUT, Drill
from .practice import FIRED, MENDED, NOTICE, RESOLVED, TOLD, Record, Step, Target, practise

#: 自己起的几套，至多同时这么多。
AT_ONCE: Final = 3
#: 被信号停下：同 shell 对 SIGINT 的约定。
STOPPED: Final = 130


@dataclass(frozen=True, slots=True)
class Given:
    """命令行说的；没有验过。"""

    name: str | None = None
    every: bool = False
    names: bool = False
    json: bool = False
    really: bool = False
    url: str | None = None
    token: str | None = None
    redis_url: str | None = None


async def run(out: Console, given: Given) -> int:
    """返回退出码：0 每一步都在期限内看到；1 没有；130 被信号停下（已经修好、收拾好）。

    :raises ConfigurationError: 没有这个演练、没有说 ``--yes-really``、那里做不了
    """
    if given.names:
        return list_drills(out)
    target = _target(given)
    drills = _chosen(given, target)
    current = asyncio.current_task()
    assert current is not None
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, current.cancel)
    try:
        records = await _practise_all(out, drills, target, quiet=given.json)
    except asyncio.CancelledError:
        return STOPPED
    if given.json:
        report = {"passed": _passed(records), "drills": [one.to_json() for one in records]}
        text = msgspec.json.encode(report).decode()
        out.print(plain_json(text), soft_wrap=True, markup=False)
    else:
        _print(out, ["", *table(records)])
    return 0 if _passed(records) else 1


def _passed(records: Sequence[Record]) -> bool:
    """一串里跳过的不算失败；只做一个而跳过了，就是没有做成。"""
    done = [record for record in records if not record.skipped]
    return bool(done) and all(record.passed for record in done)


def _target(given: Given) -> Target | None:
    if not given.really:
        if given.url:
            raise ConfigurationError(
                f"this would break {given.url}: say --yes-really;"
                " without --url the drill starts a system of its own"
            )
        return None
    if not given.url or not given.token:
        raise ConfigurationError("--yes-really needs --url and --token (an administrator's)")
    return Target(given.url, given.token, given.redis_url)


def _chosen(given: Given, target: Target | None) -> list[Drill]:
    if given.every == (given.name is not None):
        raise ConfigurationError("name one drill, or --all; --list names them")
    if given.name is None:
        return [one for one in DRILLS.values() if target is None or _can(one, target)]
    if given.name not in DRILLS:
        nearest = get_close_matches(given.name, DRILLS, 1, cutoff=0)
        raise ConfigurationError(f"no drill {given.name}; the nearest is {nearest[0]} (--list)")
    drill = DRILLS[given.name]
    if target is not None and drill.outside is None:
        able = ", ".join(one.name for one in DRILLS.values() if one.outside)
        raise ConfigurationError(f"{drill.name} can not be made from outside; these can: {able}")
    if target is not None and not _can(drill, target):
        raise ConfigurationError(f"{drill.name} on a given system needs --redis-url")
    return [drill]


def _can(drill: Drill, target: Target) -> bool:
    return drill.outside is not None and (not drill.by_redis or target.redis_url is not None)


async def _practise_all(
    out: Console, drills: Sequence[Drill], target: Target | None, *, quiet: bool
) -> list[Record]:
    """自己起的几套同时做：多半在等；别人的一套上一个一个来。"""
    turns = asyncio.Semaphore(AT_ONCE if target is None else 1)

    async def one(drill: Drill) -> Record:
        async with turns:
            return await _one(out, drill, target, quiet=quiet)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(drill)) for drill in drills]
    return [task.result() for task in tasks]


async def _one(out: Console, drill: Drill, target: Target | None, *, quiet: bool) -> Record:
    def tell(step: Step) -> None:
        if not quiet:
            mark = "[red]✗[/]" if step.took_s is None else "[green]✓[/]"
            took = f"not in {step.limit_s:.0f} s" if step.took_s is None else f"{step.took_s:.1f} s"
            out.print(f"{mark} {drill.name:<17} {step.name:<9} [cyan]{took}[/]", soft_wrap=True)

    if not quiet:
        title = f"[bold]{drill.name:<17}[/] {drill.does} → {drill.rule}"
        out.print(f"  {title}", soft_wrap=True)
    record = await practise(drill, target, tell)
    if record.problem and not quiet:
        for line in record.problem.splitlines():
            out.print(f"  {drill.name:<17} [red]{escape(plain(line))}[/]", soft_wrap=True)
    return record


def table(records: Sequence[Record]) -> list[str]:
    """一行一个；Markdown。"""
    names = (FIRED, NOTICE, MENDED, RESOLVED, TOLD)
    rows = [["drill", "fault", "rule", *(f"{name} (s)" for name in names), "ok"]]
    for record in records:
        took = {step.name: step.took_s for step in record.steps}
        times = ["—" if (seen := took.get(x)) is None else f"{seen:.1f}" for x in names]
        drill = record.drill
        verdict = "skipped" if record.skipped else "yes" if record.passed else "NO"
        rows.append([f"`{drill.name}`", drill.does, f"`{drill.rule}`", *times, verdict])
    return _markdown(rows)


def list_drills(out: Console) -> int:
    rows = [
        [f"`{one.name}`", one.does, f"`{one.rule}`", "yes" if one.outside else ""]
        for one in DRILLS.values()
    ]
    lines = [f"no drill for `{rule}`: {why}" for rule, why in WITHOUT.items()]
    _print(out, [*_markdown([["drill", "fault", "rule", "from outside"], *rows]), "", *lines])
    return 0


def _markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


def _print(out: Console, lines: Sequence[str]) -> None:
    for line in lines:
        out.print(line, soft_wrap=True, markup=False)
