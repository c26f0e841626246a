"""会议的计数与快照。"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

#: 常见的原因；别的错误（``request_<code>``、``not_stored_<code>``）发生了才有。
MEETING_DROP_REASONS: Final = (
    *("busy", "no_connection", "malformed_envelope", "outbox_overflow"),
    *("request_redis_unavailable", "request_database_unavailable"),
    *("not_stored_database_unavailable", "not_stored_meeting_ended"),
)


@dataclass(slots=True)
class MeetingCounters:
    """从启动起只增的计数；每一次丢弃都有一个原因。"""

    connections_opened: int = 0
    frames_pushed: int = 0
    segments_stored: int = 0
    interims_published: int = 0
    heartbeats: int = 0
    refused_frames: int = 0
    auth_failures: int = 0
    origins_refused: int = 0
    #: 频道上漏了而从记录里补上的段。
    segments_reread: int = 0
    drops: Counter[str] = field(default_factory=Counter)
    closes: Counter[int] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class MeetingStatistics:
    """``MeetingHub.statistics()`` 的快照；``sockets`` 还含认证中与正在关闭的。"""

    meetings: int
    connections: int
    sockets: int
    connections_opened: int
    frames_pushed: int
    segments_stored: int
    interims_published: int
    heartbeats: int
    refused_frames: int
    auth_failures: int
    origins_refused: int
    segments_reread: int
    drops: dict[str, int]
    closes: dict[int, int]
