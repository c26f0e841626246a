"""收得下的 JSON：整数怎么写都行，应用自己的（``data``）守它的规矩。

``3.0`` 也是整数：JSON 只有一种数，许多语言的写法就是这样（RFC 8259 6）。解码器照常严格地读；只有它
说“要整数，来的是小数”的，才在这里再读一遍。原样留着的（``Raw``）一个字节也不碰，第一处错就停。

``data`` 收得下什么，只在这里说，只在门口说一次。收下的一律变成规范的原文（``Raw``），接受的路上不再
解码：记录、帧、REST 给出的是同一份，所以收下的就送得出去（A3）。别人在频道上发布的帧里的也守同样
的规矩（``envelope.py``）。
"""

from __future__ import annotations

import math
import re
import types
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Annotated, Any, Final, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import Raw, Struct

from ..errors import InvalidInputError, PayloadTooLargeError
from ..model import AppData

T = TypeVar("T")

#: 一列里至多替这么多项换写法：各处的上限都到不了；坏的请求体不能靠它占住事件循环（A1）。
_MAX_ELEMENTS: Final = 10_000
_GOT_FLOAT: Final = ", got `float`"
_members: Final = msgspec.json.Decoder(dict[str, Raw])
_elements: Final = msgspec.json.Decoder(list[Raw])


def decode(decoder: msgspec.json.Decoder[T], text: bytes) -> T:
    """同 ``decoder.decode``，但整数可以写成 ``3.0``、``3e0``。

    :raises msgspec.ValidationError: 类型、上限不对
    :raises msgspec.DecodeError: 不是 JSON
    """
    try:
        return decoder.decode(text)
    except msgspec.ValidationError as error:
        if _GOT_FLOAT not in str(error):
            raise
    whole: T = msgspec.convert(_loosened(decoder.type, text), decoder.type)
    return whole


def _loosened(kind: object, text: bytes | Raw) -> object:
    """``text`` 的值，其中整数的位置上没有小数；还没看的是 ``Raw``。"""
    fields = _fields(kind)
    if fields is not None:
        members = _members.decode(text)
        return {
            name: _loosened(fields[name], value) if name in fields else value
            for name, value in members.items()
        }
    element = _element(kind)
    if element is not None:
        return _loosened_list(element, _elements.decode(text))
    if _is_raw(kind):
        return text
    return _whole(msgspec.json.decode(text))


def _loosened_list(element: object, texts: list[Raw]) -> list[object]:
    """各项都已是 ``element``；到第一处坏的为止，其余的不看：错的在它前面。"""
    strict = _decoder(element)
    values: list[object] = []
    for text in texts[:_MAX_ELEMENTS]:
        try:
            values.append(decode(strict, bytes(text)))
        except msgspec.ValidationError:
            return [*values, _loosened(element, text)]
    return [*values, *texts[_MAX_ELEMENTS:]]


def _whole(value: object) -> object:
    if isinstance(value, list):
        return [_whole(each) for each in value[:_MAX_ELEMENTS]] + value[_MAX_ELEMENTS:]
    return int(value) if isinstance(value, float) and value.is_integer() else value


@cache
def _decoder(kind: object) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


@cache
def _fields(kind: object) -> Mapping[str, object] | None:
    """对象有哪些字段；带标签的几种合在一起看，同名的字段类型相同。"""
    found: dict[str, object] = {}
    for each in _choices(kind):
        if isinstance(each, type) and issubclass(each, Struct):
            found["type"] = str
            found |= {field.encode_name: field.type for field in msgspec.structs.fields(each)}
    return found or None


@cache
def _element(kind: object) -> object | None:
    """一列对象的元素；一列数、一列文本的不必逐项看。"""
    lists = (get_args(each)[0] for each in _choices(kind) if get_origin(each) is list)
    return next((element for element in lists if _fields(element) is not None), None)


def _is_raw(kind: object) -> bool:
    return Raw in _choices(kind)


def _choices(kind: object) -> tuple[Any, ...]:
    """``Annotated`` 与 ``|`` 拆开之后。"""
    if get_origin(kind) is Annotated:
        return _choices(get_args(kind)[0])
    if get_origin(kind) in (Union, types.UnionType):
        return tuple(choice for each in get_args(kind) for choice in _choices(each))
    return (kind,)


#: 重复的只算一次，所以一列许写到上限的几倍；再长就不看了。
_REPEATED: Final = 2


class Lists:
    """还没有解码的对象里，一列列的 id 各有多长：解码二十五万个要 10 ms，数一遍不到 1 ms（A1）。"""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        """:param schema: 那个对象的 JSON Schema；只看说了 ``maxItems`` 的"""
        self._most = dict(_most_items(schema))
        fields = [(name, Raw, Raw()) for name in self._most]
        self._decode = msgspec.json.Decoder(msgspec.defstruct("Lists", fields)).decode

    def check(self, text: bytes) -> None:
        """:raises PayloadTooLargeError: 哪一列太长；不是 JSON 的不归它说"""
        if not self._most:
            return
        try:
            found = self._decode(text)
        except (msgspec.MsgspecError, RecursionError):
            return
        for name, most in self._most.items():
            if bytes(getattr(found, name)).count(b",") >= _REPEATED * most:
                raise PayloadTooLargeError(f"{name}: more than {most}")


def _most_items(schema: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """各项里没有对象（逗号就是项）的列，与它的上限。"""
    for name, field in schema.get("properties", {}).items():
        for each in (field, *field.get("anyOf", ())):
            items = each.get("items", {})
            kinds = {one.get("type") for one in (items, *items.get("anyOf", ()))}
            if "maxItems" in each and kinds.isdisjoint(("object", "array")):
                yield name, each["maxItems"]


#: ``data`` 自己是第 1 层。连同外面的帧，读得最浅的解析器（.NET 默认 64 层）也还有一半余地。
MAX_DEPTH: Final = 32
#: 空白与 ``\\uXXXX`` 让原文比规范的大；再大就不必解码了。
_SPARE: Final = 4
_object: Final = msgspec.json.Decoder(dict[str, Any])
#: 64 位，有无符号都行：多数语言的解析器到此为止。
_MIN_INTEGER: Final = -(2**63)
_MAX_INTEGER: Final = 2**64 - 1
_LONG_NUMBER: Final = re.compile(rb"[0-9]{19}")
#: 编码之后的 NUL；前面有奇数个反斜杠的是六个普通字符（C1）。
_NUL: Final = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


def accepted_data(data: AppData, max_bytes: int) -> Raw:
    """``data`` 的规范原文。

    :raises PayloadTooLargeError: 规范之后多于 ``max_bytes``
    :raises InvalidInputError: 不是对象、太深、有 NUL、有不是有限的数或 64 位装不下的整数
    """
    if isinstance(data, Raw) and len(memoryview(data)) > max_bytes * _SPARE:
        raise _too_large(max_bytes)
    try:
        encoded = msgspec.json.encode(_plain(data))
    except RecursionError:
        raise InvalidInputError(f"data: nested deeper than {MAX_DEPTH} levels") from None
    except (TypeError, ValueError, OverflowError, msgspec.MsgspecError):
        raise InvalidInputError("data: is not a JSON object that can be delivered") from None
    if len(encoded) > max_bytes:
        raise _too_large(max_bytes)
    check_encoded(encoded)
    return Raw(encoded)


def check_encoded(encoded: bytes) -> None:
    """规范的原文里还要看的：整数、层数与 NUL。

    :raises InvalidInputError:
    """
    if is_too_deep(encoded):
        raise InvalidInputError(f"data: nested deeper than {MAX_DEPTH} levels")
    if _LONG_NUMBER.search(encoded) and not _fits(msgspec.json.decode(encoded)):
        raise InvalidInputError("data: an integer needs more than 64 bits")
    if b"\\u0000" in encoded and _NUL.search(encoded):
        raise InvalidInputError("data: must not contain NUL")


def is_too_deep(text: bytes) -> bool:
    """合格的 JSON 是否深过 ``MAX_DEPTH``；括号不多的（几乎全部）一眼就知道不是。"""
    if text.count(b"[") + text.count(b"{") <= MAX_DEPTH:
        return False
    try:
        level = [msgspec.json.decode(text)]
    except RecursionError:
        return True
    for _ in range(MAX_DEPTH):
        level = [child for each in level for child in _children(each)]
        if not level:
            return False
    return True


def _plain(data: AppData) -> object:
    """只剩 JSON 的值；应用交来的 Python 值里，msgspec 会把 NaN 悄悄写成 null。"""
    if isinstance(data, Raw):
        return _object.decode(data)
    if not isinstance(data, dict):
        raise TypeError("not an object")
    plain = msgspec.to_builtins(data, str_keys=True)
    if any(isinstance(each, float) and not math.isfinite(each) for each in _walk(plain)):
        raise ValueError("not a finite number")
    return plain


def _fits(data: object) -> bool:
    numbers = (each for each in _walk(data) if isinstance(each, int))
    return all(_MIN_INTEGER <= each <= _MAX_INTEGER for each in numbers)


def _walk(data: Any) -> Iterator[Any]:
    level = [data]
    while level:
        yield from level
        level = [child for each in level for child in _values(each)]


def _children(value: Any) -> Iterable[Any]:
    return (child for child in _values(value) if isinstance(child, dict | list))


def _values(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _too_large(max_bytes: int) -> PayloadTooLargeError:
    return PayloadTooLargeError(f"data: larger than {max_bytes} bytes")
