"""一个人的 id，对外的：整数，或（人归应用时）一段字；内里总是一个 64 位的号。

整数的号就是它自己（1 … 2^53−1）；一段字的号在 2^53 之上，由 ``people/`` 记着哪个是谁。
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote

#: 对外的样子。
PersonId = int | str
#: JavaScript 的整数到此为止还是准的（C8）。
MAX_INTEGER: Final = 2**53 - 1
#: 一段字的号从它之后起：不会是谁的整数 id。它自己不是任何人，问一个没有的人时用它。
NOBODY: Final = 2**53
MAX_CHARS: Final = 64
#: 给 JSON Schema 的；长短另说。
PATTERN: Final = f"^[A-Za-z0-9._~@:+-]{{1,{MAX_CHARS}}}$"

_text: Final = re.compile(rf"[A-Za-z0-9._~@:+-]{{1,{MAX_CHARS}}}").fullmatch
_decimal: Final = re.compile(r"[1-9][0-9]{0,15}").fullmatch


@dataclass(frozen=True, slots=True)
class PersonIds:
    """收什么样的。

    ``strings``：一段字也收。``always``：全当作一段字，``5`` 是 ``"5"``；不然 ``"5"`` 是 5。
    """

    strings: bool = False
    always: bool = False

    def read(self, given: object) -> PersonId | None:
        """规范的样子；不是 id 的是 None。``"05"``、``"1e3"``、2^53 以上的数字串都只是一段字。"""
        if type(given) is int:  # bool 是 int 的子类，不算
            if not 0 < given <= MAX_INTEGER:
                return None
            return str(given) if self.always else given
        if type(given) is not str:
            return None
        if not self.always and _decimal(given) and (number := int(given)) <= MAX_INTEGER:
            return number
        return given if self.strings and _text(given) else None

    def in_path(self, segment: str) -> PersonId | None:
        """URL 路径里百分号编码的一段；解不开的变成替换字符，也就不是 id。"""
        return self.read(unquote(segment) if "%" in segment else segment)


def number_or_nobody(person: PersonId) -> int:
    """一段字的号还不知道。"""
    return person if isinstance(person, int) else NOBODY


def path_segment(person: PersonId) -> str:
    """写进 URL 路径的样子。"""
    return quote(str(person), safe="")
