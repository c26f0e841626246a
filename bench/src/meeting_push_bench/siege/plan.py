"""要做多少；写进报告。"""

from __future__ import annotations

from typing import Final

import msgspec

#: 老实人与攻击者平常的地址；后者也是受信任的反向代理（A12 由它转交 IPv6 的地址）。
HONEST_ADDRESS: Final = "127.0.0.10"
ATTACKER_ADDRESS: Final = "127.0.0.66"


class SiegePlan(msgspec.Struct, frozen=True, kw_only=True):
    """``seconds``：每种坏法、每种地址各这么久；速率都是老实人合起来的每秒。"""

    honest: int = 20
    quiet_s: float = 30
    seconds: float = 12
    lead_s: float = 1  # 攻击开始之后多久才量：先让它占住该占的
    sends_per_s: float = 20
    connects_per_s: float = 4
    logins_per_s: float = 3
    segments_per_s: float = 5
    reads_per_s: float = 4
    only: str = ""  # 只做这几种，逗号隔开；空 = 全部


QUICK_SIEGE: Final = SiegePlan(honest=4, quiet_s=3, seconds=2, lead_s=0.2)
