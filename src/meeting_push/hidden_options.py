"""命令行里的密码谁都能用 ``ps`` 看到：挪进环境变量（只有主人读得到），再以没有它们的参数重新执行。

看得到的只剩进程最初的几十毫秒；完全不想给人看的，一开始就用环境变量或 ``.env``。
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

_VARIABLES: Final = {
    "--database-url": "MEETING_PUSH_DATABASE_URL",
    "--redis-url": "MEETING_PUSH_REDIS_URL",
    "--token": "MEETING_PUSH_TOKEN",
}
#: 别的命令（bench）的同名选项与环境变量无关。
_COMMANDS: Final = frozenset({"serve", "doctor", "user", "send", "listen"})


def hide_secrets() -> None:
    """有要藏的就不返回：同一个进程重新执行。"""
    if len(sys.argv) < 2 or sys.argv[1] not in _COMMANDS:
        return
    given = sys.argv[2:]
    kept, moved = without_secrets(given)
    if moved:
        os.environ.update(moved)
        before = sys.orig_argv[: len(sys.orig_argv) - len(given)]
        os.execv(sys.executable, [sys.executable, *before[1:], *kept])  # noqa: S606 — 不经 shell


def without_secrets(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """（留下的参数，挪走的环境变量）。"""
    kept: list[str] = []
    moved: dict[str, str] = {}
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.partition("=")
        words = [argument]
        if name in _VARIABLES and not equals:
            value = next(rest, "")
            words.append(value)
        if name in _VARIABLES and (name == "--token" or _has_password(value)):
            moved[_VARIABLES[name]] = value
        else:
            kept += words
    return kept, moved


def _has_password(url: str) -> bool:
    try:
        return urlsplit(url).password is not None or "password=" in url
    except ValueError:
        return False
