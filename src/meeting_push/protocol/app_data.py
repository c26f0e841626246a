"""应用自己的 JSON（``data``）：收得下什么，只在这里说，只在门口说一次。

收下的一律变成规范的原文（``Raw``），接受的路上不再解码：记录、帧、REST 给出的是同一份，所以收下
的就送得出去（A3）。别人在频道上发布的帧里的也守同样的规矩（``envelope.py``）。
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec
from msgspec import Raw

from ..errors import InvalidInputError, PayloadTooLargeError
from ..model import AppData

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
