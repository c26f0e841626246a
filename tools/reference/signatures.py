"""一个函数、一个类怎样写出来：注解没有引号，写不下就一个参数一行。"""

from __future__ import annotations

import inspect
import re
from enum import Enum
from typing import Any, Final

_MOST_CHARS: Final = 88
_BEFORE: Final[dict[Any, str]] = {
    inspect.Parameter.VAR_POSITIONAL: "*",
    inspect.Parameter.VAR_KEYWORD: "**",
}


def written(name: str, of: Any) -> str:
    """``name(…) -> …``；``self`` 与 ``cls`` 不算。"""
    signature = inspect.signature(of)
    given = [one for key, one in signature.parameters.items() if key not in ("self", "cls")]
    parts = list(_parts(given))
    answer = _annotation(signature.return_annotation)
    tail = f" -> {answer}" if answer and not inspect.isclass(of) else ""
    line = f"{name}({', '.join(parts)}){tail}"
    if len(line) <= _MOST_CHARS:
        return line
    return f"{name}(\n" + "".join(f"    {one},\n" for one in parts) + f"){tail}"


def names_in(of: Any, *, answers: bool = True) -> set[str]:
    """注解里的名字；``answers``：连同返回的。"""
    signature = inspect.signature(of)
    said = [one.annotation for one in signature.parameters.values()]
    if answers:
        said.append(signature.return_annotation)
    texts = [_annotation(one) for one in said]
    return set(re.findall(r"[A-Za-z_]\w*", " ".join(texts)))


def _parts(given: list[inspect.Parameter]) -> list[str]:
    parts, starred = list[str](), False
    for number, one in enumerate(given):
        if one.kind is inspect.Parameter.VAR_POSITIONAL:
            starred = True
        if one.kind is inspect.Parameter.KEYWORD_ONLY and not starred:
            parts.append("*")
            starred = True
        parts.append(_parameter(one))
        following = given[number + 1].kind if number + 1 < len(given) else None
        only = inspect.Parameter.POSITIONAL_ONLY
        if one.kind is only and following is not only:
            parts.append("/")
    return parts


def _parameter(one: inspect.Parameter) -> str:
    kind = _annotation(one.annotation)
    text = f"{_BEFORE.get(one.kind, '')}{one.name}" + (f": {kind}" if kind else "")
    if one.default is inspect.Parameter.empty:
        return text
    return f"{text} = {_value(one.default)}" if kind else f"{text}={_value(one.default)}"


def _annotation(kind: Any) -> str:
    if kind is inspect.Signature.empty:
        return ""
    text = kind if isinstance(kind, str) else inspect.formatannotation(kind)
    return re.sub(r"ForwardRef\('(.+?)'\)", r"\1", text)


def _value(value: Any) -> str:
    if isinstance(value, Enum):
        return f"{type(value).__name__}.{value.name}"
    text = repr(value)
    return "…" if " object at " in text or text.startswith("<") else text
