"""``3.0`` 也是整数：JSON 只有一种数，许多语言的写法就是这样（RFC 8259 6）。

解码器照常严格地读；只有它说“要整数，来的是小数”的，才在这里再读一遍。原样留着的（``Raw``：应用的
``data``）一个字节也不碰，第一处错就停。
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Final, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import Raw, Struct

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
