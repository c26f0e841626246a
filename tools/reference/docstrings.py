"""docstring（reStructuredText 的几样写法）→ 参考页里的 Markdown。"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

_FIELD: Final = re.compile(r"^:(param|raises|returns?|yields?)\s*([\w., |*]*):\s*(.*)$")
_WORDS: Final = {
    "raises": "抛出",
    "return": "返回",
    "returns": "返回",
    "yield": "产出",
    "yields": "产出",
}


def markdown(text: str) -> str:
    """段落照旧；``:param x:``、``:raises X:`` 一行一条；``::`` 之后缩进的是代码。"""
    return re.sub(r"\n{3,}", "\n\n", "\n".join(_lines(text))).strip()


def _lines(text: str) -> Iterator[str]:
    code, in_fields = list[str](), False
    lines = iter([*text.strip().splitlines(), None])
    for line in lines:
        if code and (line is None or (line.strip() and not line.startswith(" "))):
            yield from _code(code)
            code = []
        if line is None:
            return
        if code:
            code.append(line)
        elif found := _FIELD.match(line):
            if not in_fields:
                yield ""
            in_fields = True
            yield _field(*found.groups())
        elif line.endswith("::"):
            yield _inline(line.removesuffix("::")) + "：\n"
            code = [""]
        else:
            yield f"  {_inline(line.strip())}" if in_fields and line.strip() else _inline(line)


def _code(lines: list[str]) -> Iterator[str]:
    inside = "\n".join(line[4:] for line in lines).strip("\n")
    yield f"```py\n{inside}\n```\n"


def _field(kind: str, names: str, said: str) -> str:
    if kind == "param":
        return f"- `{names.strip()}`：{_inline(said)}"
    named = f" `{names.strip()}`" if names.strip() else ""
    return f"- {_WORDS[kind]}{named}{'：' if said else ''}{_inline(said)}"


def _inline(line: str) -> str:
    return re.sub(r":\w+:`~?([^`]+)`", r"`\1`", line).replace("``", "`")
