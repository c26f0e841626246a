"""比多少；写进报告。"""

from __future__ import annotations

import msgspec


class PeersPlan(msgspec.Struct, frozen=True, kw_only=True):
    """每一轮每一方都是新的进程；取各轮的中位数。"""

    rounds: int = 3
    sockets: int = 2_000
    seconds: float = 5  # 扇出、单播各量这么久
    frame_bytes: int = 160
    fanout_depth: int = 4  # 每条连接在途几帧：忙不过来的服务器可以合并着写
    unicast_window: int = 1_000
    connect_concurrency: int = 64
    heartbeat_interval_s: float = 20
    settle_s: float = 2


QUICK = PeersPlan(rounds=1, sockets=200, seconds=1, settle_s=0.5)
