"""各份报告共有的：头（什么、何时、哪条命令、在什么上面），写到哪里。"""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from .machine import Machine, commit, this_machine, versions


class Heading(msgspec.Struct, frozen=True, kw_only=True):
    """开始之前就定下的：测量本身会改变机器的负载。报告是它的子类，照它填好自己的头。"""

    bench: str
    started_at: str
    command: str
    commit: str | None
    machine: Machine
    versions: dict[str, str]

    @classmethod
    def now(cls, bench: str, command: str) -> Heading:
        return Heading(
            bench=bench,
            started_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            command=command,
            commit=commit(),
            machine=this_machine(),
            versions=versions(),
        )

    @property
    def stamp(self) -> str:
        """进文件名的时刻。"""
        return self.started_at.translate(str.maketrans("", "", "-:"))


def write_json(report: Heading, directory: Path) -> Path:
    """写成 ``bench-<profile>-<时刻>.json``，返回路径。"""
    return _write(report, directory / f"bench-{report.bench}-{report.stamp}.json")


def write_folder(report: Heading, directory: Path) -> Path:
    """写成 ``<profile>-<时刻>/result.json``，返回那个文件夹。"""
    return _write(report, directory / f"{report.bench}-{report.stamp}" / "result.json").parent


def show(console: Console, shown: Table, report: Heading, reports: Path) -> None:
    """终端里的表，与写下的 JSON 在哪里。"""
    console.print(shown)
    console.print(f"report: {write_json(report, reports)}", soft_wrap=True)


def _write(report: Heading, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    return path
