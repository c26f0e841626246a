"""边缘的计数与快照：热路径上只加整数，要看的人来拉。"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from ..protocol.session import Pushed

#: 一帧没有推出去的全部原因。
DROP_REASONS: Final = (
    *(each.value for each in (Pushed.DUPLICATE, Pushed.HELD_OVERFLOW, Pushed.CLOSED)),
    *("outbox_overflow", "no_connection", "malformed_envelope"),
)


@dataclass(slots=True)
class EdgeCounters:
    """从启动起只增的计数；每一次丢弃都有一个原因（LESSONS 17）。"""

    connections_opened: int = 0
    frames_pushed: int = 0
    bytes_pushed: int = 0
    acks: int = 0
    heartbeats: int = 0
    bad_frames: int = 0
    auth_failures: int = 0
    origins_refused: int = 0
    flushed_messages: int = 0
    rereads: int = 0
    drops: Counter[str] = field(default_factory=Counter)
    closes: Counter[int] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class EdgeStatistics:
    """``ConnectionManager.statistics()`` 的快照；``drops`` 按原因，``closes`` 按关闭码。

    ``connections`` 是已认证、登记着的；``sockets`` 还包括认证中的与正在关闭的，``waiting`` 是
    其中还在排队等着放行的。
    """

    connections: int
    users: int
    sockets: int
    waiting: int
    connections_opened: int
    frames_pushed: int
    bytes_pushed: int
    acks: int
    heartbeats: int
    bad_frames: int
    auth_failures: int
    origins_refused: int
    flushed_messages: int
    rereads: int
    drops: dict[str, int]
    closes: dict[int, int]
