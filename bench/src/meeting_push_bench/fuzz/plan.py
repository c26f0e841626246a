"""一次 ``bench fuzz`` 要做多少；全部上限都在这里，写进报告。"""

from __future__ import annotations

from typing import Final

import msgspec


class FuzzPlan(msgspec.Struct, frozen=True, kw_only=True):
    """默认值是完整的一次：每个 edge 十万个 case，再加上逐项的洪水。"""

    cases: int = 100_000
    seed: int = 1
    workers: int = 64
    warm_cases: int = 1_000  # 不检查：首次使用才分配的东西不算增长
    quiet_s: float = 5  # 没有攻击时证人的延迟，用来比较

    slowloris: int = 200
    half_open: int = 10_000
    ack_ids: int = 1_000_000
    ack_frames: int = 20_000  # 每帧一个 id
    pings: int = 200_000
    heartbeats: int = 20_000
    flood_connections: int = 4

    #: 热身之后到最后，服务器的内存至多长这么多。
    max_growth_bytes: int = 64 * 1024 * 1024
    #: 证人的消息至多这么久到（P99）；正常是几十毫秒。
    max_witness_p99_ms: float = 5_000


QUICK = FuzzPlan(
    cases=300,
    warm_cases=100,
    workers=16,
    quiet_s=1,
    slowloris=10,
    half_open=100,
    ack_ids=20_000,
    ack_frames=500,
    pings=2_000,
    heartbeats=500,
)

#: 攻击时用的设置：期限短，该掐断的很快就掐断（见 ``attacker.CLOSE_TIMEOUT_S``）。
SETTINGS: Final = {"handshake_timeout_s": 2, "heartbeat_timeout_s": 8, "heartbeat_interval_s": 4}
