"""要做多少；写进报告。"""

from __future__ import annotations

from typing import Final

import msgspec


class RollingPlan(msgspec.Struct, frozen=True, kw_only=True):
    """``calm_s``：开始之前、每两次重启之间、最后，各安静这么久。"""

    nodes: int = 3
    users: int = 50
    devices_each: int = 2
    rate_per_s: float = 50
    calm_s: float = 5


QUICK_ROLLING: Final = RollingPlan(nodes=2, users=3, devices_each=1, rate_per_s=10, calm_s=1)
