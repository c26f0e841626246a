"""要做多少；写进报告。"""

from __future__ import annotations

import msgspec


class DisturbancePlan(msgspec.Struct, frozen=True, kw_only=True):
    """每一轮：没有、有、有、没有（机器上别的活动对两者一样）。"""

    rounds: int = 3
    neighbours: int = 20
    rate_per_s: float = 50  # 给邻居们的；耐久与瞬时两条路各这么多
    phase_s: float = 12
    warm_up_s: float = 3

    # 不读的设备
    slow_messages_per_s: float = 20
    slow_content_bytes: int = 48 * 1024

    # 灌满的会议：每条连接都按上限说话
    speakers: int = 4
    listeners: int = 16
    text_chars: int = 1_000


QUICK = DisturbancePlan(
    rounds=1,
    neighbours=4,
    rate_per_s=20,
    phase_s=4,
    warm_up_s=0.5,
    slow_messages_per_s=60,
    speakers=2,
    listeners=2,
)
