"""钥匙的指纹：放进大家看得见的地方，比一比是不是同一把，而推不出钥匙。"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

#: 值得猜的只有短的密钥；一次 30 ms，启动时算一回。
_COST: Final = 2**13
_SALT: Final = b"meeting-push key fingerprint"


def fingerprint(key: bytes) -> str:
    """同一把钥匙在每个节点上都一样；32 个十六进制字符。"""
    return hashlib.scrypt(key, salt=_SALT, n=_COST, r=8, p=1, dklen=16).hex()


@dataclass(frozen=True, slots=True)
class Keyring:
    """``signs``：签发用的钥匙的指纹（不签则空）；``accepts``：认得的。都空：由应用自己验证。"""

    signs: str = ""
    accepts: frozenset[str] = frozenset()
