"""由设置写出 ``.env.example`` 与 ``docs/settings.md``（``make settings``）。"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from enum import Enum
from itertools import groupby
from pathlib import Path
from typing import Final, Literal, get_args, get_origin

from meeting_push.settings import FLAT, PREFIX, Place, Settings

ROOT: Final = Path(__file__).resolve().parent.parent
#: 名字说出的单位。
_UNITS: Final = {"s": "秒", "ms": "毫秒", "bytes": "字节", "chars": "字"}
_ENV_HEAD: Final = """\
# 全部设置及其默认值；复制成 .env 并去掉要改的那几行前面的 #。说明也在 docs/settings.md。
# 由 make settings 从 src/meeting_push/settings/ 生成。
"""
_PAGE_HEAD: Final = """\
# 设置

由 `make settings` 从 `src/meeting_push/settings/` 生成，别在这里改。环境变量与 `.env` 里的名字加
`MEETING_PUSH_`；Python 的关键字是它的小写：`load_settings(queue_max_length=5)`。读的时候按组：
`settings.queue.max_length`。列表写成 JSON：`["a", "b"]`。默认是“—”的，没有给出就照含义里说的。

默认值适合一个网关几万人、一个 Redis；“何时动它”是“—”的通常不必。量过的效果见 [调优](tuning.md)，
安全的几项见 [安全](security.md#运维要设置的)。
"""


def pages() -> dict[Path, str]:
    """两个文件各自的全文。"""
    return {
        ROOT / ".env.example": _ENV_HEAD + "\n".join(_env_lines()) + "\n",
        ROOT / "docs" / "settings.md": _PAGE_HEAD + "\n".join(_page_lines()) + "\n",
    }


def _env_lines() -> Iterator[str]:
    for group, members in _groups():
        yield f"\n# ── {_title(group)}"
        for flat, place in members:
            unit = _extra(place, "unit")
            said = [
                f"{_meaning(place)}（{unit}）" if unit else _meaning(place),
                _extra(place, "when"),
            ]
            yield f"# {'。'.join(filter(None, said))}"  # 单独成行：许多读者不认识行尾注释
            yield f"#{PREFIX}{flat.upper()}={_text(place.info.default)}"


def _page_lines() -> Iterator[str]:
    for group, members in _groups():
        yield f"\n## {_title(group)}\n"
        yield f"`settings.{group}`\n"
        yield "| 设置 | 含义 | 单位 · 取值 | 默认 | 何时动它 |"
        yield "|---|---|---|---|---|"
        for flat, place in members:
            default = _text(place.info.default)
            shown = f"`{default}`" if default not in ("", "[]") else "—"
            row = (f"`{flat.upper()}`", _meaning(place), unit_of(flat, place), shown)
            yield f"| {' | '.join((*row, _extra(place, 'when') or '—'))} |"


def _groups() -> Iterator[tuple[str, Iterator[tuple[str, Place]]]]:
    return groupby(FLAT.items(), key=lambda each: each[1].group)


def _title(group: str) -> str:
    kind = Settings.model_fields[group].annotation
    return kind.__doc__ or ""


def _meaning(place: Place) -> str:
    return place.info.description or ""


def _extra(place: Place, name: str) -> str:
    extra = place.info.json_schema_extra
    return str(extra[name]) if isinstance(extra, dict) else ""


def unit_of(flat: str, place: Place) -> str:
    """写着的；可选的几个值；名字说出的；否则是文字。"""
    if unit := _extra(place, "unit"):
        return unit
    kinds = [place.info.annotation, *get_args(place.info.annotation)]
    for kind in kinds:
        if isinstance(kind, type) and issubclass(kind, Enum):
            return " · ".join(f"`{each.value}`" for each in kind)
        if get_origin(kind) is Literal:
            return " · ".join(f"`{value}`" for value in get_args(kind))
    if bool in kinds:
        return "`true` · `false`"
    named = _UNITS.get(re.sub(r".*_", "", flat))
    return named or ("几段文字" if get_origin(place.info.annotation) is tuple else "文字")


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, bool | tuple):
        return json.dumps(value)
    return str(value)


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text)
