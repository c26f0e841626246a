"""别人给的文字进日志、进终端之前：控制符写成转义，一行仍是一行（LESSONS 28）。"""

from __future__ import annotations

from collections.abc import Callable


def plain(text: str) -> str:
    r"""换行、ESC、C1、双向控制符、行分隔符、孤立代理项……写成 ``\n``、``\x1b``、``\u202e``。"""
    return _escaped(text, lambda c: c.encode("unicode_escape").decode("ascii"))


def plain_json(text: str) -> str:
    """一段没有换行的 JSON：控制符只可能在字符串里，换成 JSON 的转义，意思不变。"""
    return _escaped(text, _json_escape)


def plain_error(error: BaseException) -> BaseException:
    """同一个错误，它和它的来由的话都是一行；不必改就是它自己。"""
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    before = None if cause is None else plain_error(cause)
    text = str(error)
    if text.isprintable() and before is cause:
        return error
    kind = type(error)
    copy: BaseException = type(kind.__name__, (Exception,), {"__module__": kind.__module__})(
        plain(text)
    )
    copy.__traceback__, copy.__cause__ = error.__traceback__, before
    return copy


def _escaped(text: str, escape: Callable[[str], str]) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else escape(c) for c in text)


def _json_escape(character: str) -> str:
    code = ord(character)
    if code < 0x10000:
        return f"\\u{code:04x}"
    high, low = divmod(code - 0x10000, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"
