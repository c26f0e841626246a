"""在什么上面测的：没有它，数字不能与别的数字相比。"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import msgspec

import meeting_push

_PACKAGES: Final = (
    "meeting-push",
    *("picows", "uvicorn", "uvloop", "websockets", "fastapi", "hiredis", "msgspec", "sqlalchemy"),
)
_PACKAGE_DIR: Final = Path(meeting_push.__file__).parent


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    cpu: str
    cores: int
    memory_bytes: int
    kernel: str
    python: str
    load_average: float  # 开始时；不是 0 就说明机器不是独占的


def this_machine() -> Machine:
    return Machine(
        cpu=_cpu_name(),
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        kernel=platform.release(),
        python=platform.python_version(),
        load_average=round(os.getloadavg()[0], 2),
    )


def versions() -> dict[str, str]:
    return {name: _version(name) for name in _PACKAGES}


def commit() -> str | None:
    """源码检出的提交（有改动则带 ``-dirty``）；装好的包没有。"""
    root = _git("rev-parse", "--show-toplevel")
    if root is None or Path(root, "src", _PACKAGE_DIR.name) != _PACKAGE_DIR:
        return None
    return _git("describe", "--always", "--dirty", "--abbrev=12")


def _git(*args: str) -> str | None:
    git = shutil.which("git")
    if git is None:
        return None
    answer = subprocess.run(  # noqa: S603 - 参数都是本文件里的常量
        [git, *args], cwd=_PACKAGE_DIR, capture_output=True, text=True, check=False
    )
    return answer.stdout.strip() if answer.returncode == 0 else None


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()
