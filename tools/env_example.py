"""从 ``settings.py`` 生成 ``.env.example``（``make env-example``）：注释照搬。"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Iterator
from enum import Enum
from typing import Final

from meeting_push.settings import Settings

_SECTION: Final = re.compile(r"^    # (?P<title>.+)$")
_FIELD: Final = re.compile(r"^    (?P<name>[a-z_0-9]+): .*?(?:  # (?P<comment>.+))?$")
_HEADER: Final = """\
# 全部设置及其默认值；复制成 .env 并去掉要改的那几行前面的 #。
# 由 make env-example 从 src/meeting_push/settings.py 生成。
"""


def render() -> str:
    """``.env.example`` 的全文。"""
    return _HEADER + "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    for line in inspect.getsource(Settings).splitlines():
        if section := _SECTION.match(line):
            yield f"\n# ── {section['title']}"
        elif (field := _FIELD.match(line)) and field["name"] in Settings.model_fields:
            if field["comment"]:  # 单独成行：.env 的许多读者不认识行尾注释
                yield f"# {field['comment']}"
            yield f"#{_assignment(field['name'])}"


def _assignment(name: str) -> str:
    return f"MEETING_PUSH_{name.upper()}={_text(Settings.model_fields[name].default)}"


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, bool | tuple):
        return json.dumps(value)
    return str(value)


if __name__ == "__main__":
    sys.stdout.write(render())
