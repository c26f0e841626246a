"""JSON Schema 的一样东西在参考页里怎样写：一种类型几个字，一个对象一张表。"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

Schema = Mapping[str, Any]
#: ``$ref`` → 它指的。
Resolve = Callable[[str], Schema]

_KINDS: Final = {
    "integer": "整数",
    "number": "数",
    "string": "文字",
    "boolean": "真假",
    "object": "对象",
    "array": "列表",
    "null": "null",
}
_UNITS: Final = {"string": " 字", "array": " 个"}
_MOST: Final = 2**53 - 1


class Field(NamedTuple):
    """一格字段；里面的以 ``.`` 接着，列表里的以 ``[].``。"""

    name: str
    kind: str
    required: bool
    default: str
    meaning: str


class Shapes:
    """``resolve``：怎样由 ``$ref`` 找到它指的。"""

    def __init__(self, resolve: Resolve) -> None:
        self._resolve = resolve

    def of(self, schema: Schema) -> Schema:
        """引用展开；自己另说了话的，以自己的为准。"""
        if "$ref" not in schema:
            return schema
        own = {name: value for name, value in schema.items() if name != "$ref"}
        return {**self.of(self._resolve(schema["$ref"])), **own}

    def kind(self, given: Schema) -> str:
        """类型、范围、可选的几个值。"""
        schema = self.of(given)
        if "const" in schema:
            return f"`{json.dumps(schema['const'], ensure_ascii=False)}`"
        if "enum" in schema:
            return " · ".join(f"`{value}`" for value in schema["enum"])
        if (choices := schema.get("anyOf")) and "type" not in schema:
            return self._either(choices)
        kinds = schema.get("type", "任何 JSON")
        named = [kinds] if isinstance(kinds, str) else list(kinds)
        return " 或 ".join(self._plain(name, schema) for name in named)

    def choices(self, given: Schema) -> list[Schema]:
        """几种对象之一；只有一种的是它自己。"""
        schema = self.of(given)
        if "properties" in schema or "anyOf" not in schema:
            return [schema]
        return [self.of(one) for one in schema["anyOf"]]

    def fields(self, given: Schema, before: str = "") -> Iterator[Field]:
        """一个对象的各字段，连同里面的。"""
        schema = self.of(given)
        required = set(schema.get("required", ()))
        for name, each in schema.get("properties", {}).items():
            own = self.of(each)
            default = own.get("default", _NOTHING)
            shown = "" if default is _NOTHING else json.dumps(default, ensure_ascii=False)
            yield Field(
                f"{before}{name}", self.kind(own), name in required, shown, self._meaning(own)
            )
            inner, mark = self._inside(own)
            if inner is not None:
                yield from self.fields(inner, f"{before}{name}{mark}.")

    def _either(self, choices: list[Schema]) -> str:
        if any("pattern" in one and "A-Za-z0-9._~" in one["pattern"] for one in choices):
            return " 或 ".join(["人的 id", *(["null"] if {"type": "null"} in choices else [])])
        return " 或 ".join(dict.fromkeys(self.kind(one) for one in choices))

    def _plain(self, name: str, schema: Schema) -> str:
        text = _KINDS.get(name, name) + _range(name, schema)
        if name == "array" and "items" in schema:
            return f"{text}，各是{self.kind(schema['items'])}"
        rest = schema.get("additionalProperties")
        if name == "object" and isinstance(rest, Mapping) and rest:
            return f"{text}，值是{self.kind(rest)}"
        return text

    def _inside(self, schema: Schema) -> tuple[Schema | None, str]:
        """列在下面的那个对象，与它的记号。"""
        for one in (schema, *schema.get("anyOf", ())):
            one = self.of(one)
            if one.get("properties"):
                return one, ""
            if isinstance(one.get("items"), Mapping):
                found, mark = self._inside(self.of(one["items"]))
                if found is not None:
                    return found, f"[]{mark}"
        return None, ""

    def _meaning(self, schema: Schema) -> str:
        """自己说的；没有就是“任一种”里头一种说的。"""
        said = schema.get("description") or next(
            (one["description"] for one in schema.get("anyOf", ()) if one.get("description")), ""
        )
        return " ".join(str(said).split())


_NOTHING: Final = object()


def _range(name: str, schema: Schema) -> str:
    least = next((schema[k] for k in ("minimum", "minLength", "minItems") if k in schema), None)
    most = next((schema[k] for k in ("maximum", "maxLength", "maxItems") if k in schema), None)
    unit = _UNITS.get(name, "")
    if name in ("boolean", "null", "object") or (least, most) == (None, None):
        return ""
    if most is None:
        return f" ≥ {least}{unit}" if least else ""
    if least == most:
        return f" {_figure(most)}{unit}"
    if least is None or (least == 0 and unit):
        return f" ≤ {_figure(most)}{unit}"
    return f" {least}…{_figure(most)}{unit}"


def _figure(number: int | float) -> str:
    return "2^53−1" if number == _MOST else f"{number:,}"
