"""太容易猜的密码：8 个字符以下，全是数字，或在最常见的一万个之中。

名单 ``common_passwords.txt.gz`` 只留下前两条没有说的（一行一个，NFKC、casefold）：zxcvbn 4.5（MIT）
的口令频率表前一万与 Django 5.2（BSD-3-Clause）的 ``common-passwords`` 前一万的并集。
"""

from __future__ import annotations

import gzip
import unicodedata
from functools import cache
from importlib.resources import files
from typing import Final

from ..errors import WeakPasswordError

MIN_CHARS: Final = 8


def require_strong(password: str) -> None:
    """:raises WeakPasswordError: 见模块说明"""
    if len(password) < MIN_CHARS:
        raise WeakPasswordError(f"the password must have at least {MIN_CHARS} characters")
    if password.isdecimal():
        raise WeakPasswordError("the password must not consist of digits only")
    if unicodedata.normalize("NFKC", password).casefold() in _common():
        raise WeakPasswordError("the password is one of the 10,000 commonest")


@cache
def _common() -> frozenset[str]:
    """第一次注册时才读，几毫秒。"""
    packed = (files("meeting_push") / "auth" / "common_passwords.txt.gz").read_bytes()
    return frozenset(gzip.decompress(packed).decode().split("\n"))
