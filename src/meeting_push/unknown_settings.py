"""写错了名字的设置：pydantic 不认识的环境变量它一声不吭。"""

from __future__ import annotations

import os
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Final

from dotenv import dotenv_values

from .settings import PREFIX, Settings

#: 不是设置、却也叫这个前缀的：命令行自己读。
_NOT_SETTINGS: Final = frozenset({f"{PREFIX}TOKEN"})


def unknown_variables() -> Iterator[tuple[str, str | None]]:
    """环境与 ``.env`` 里不认识的 ``MEETING_PUSH_…``，各与最像的名字（没有像的为 None）。"""
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields} | _NOT_SETTINGS
    given = {name.upper() for name in (*os.environ, *dotenv_values(".env"))}
    for name in sorted(one for one in given if one.startswith(PREFIX) and one not in known):
        yield name, next(iter(get_close_matches(name, known, n=1)), None)
