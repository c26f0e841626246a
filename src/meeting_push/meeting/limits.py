"""会议 WebSocket 自己的上限，与用户连接的互不相干（ISO-1）。"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..protocol.limits import Limits
from ..settings import Settings
from ..websocket.limits import limits_of


@dataclass(frozen=True, slots=True)
class MeetingLimits:
    """``line`` 是每条连接的：帧、发件箱、心跳、握手。"""

    line: Limits
    max_text_chars: int
    frames_per_s: float
    bytes_per_s: float
    #: 每场会议，所有节点合计。
    max_connections: int
    refresh_s: float
    leave_grace_s: float

    @classmethod
    def of(cls, settings: Settings) -> MeetingLimits:
        line = replace(
            limits_of(settings),
            max_frame_bytes=settings.meeting_max_frame_bytes,
            outbox_max_bytes=settings.meeting_outbox_max_bytes,
        )
        return cls(
            line=line,
            max_text_chars=settings.meeting_max_text_chars,
            frames_per_s=settings.meeting_frames_per_s,
            bytes_per_s=settings.meeting_bytes_per_s,
            max_connections=settings.meeting_max_connections,
            refresh_s=settings.meeting_refresh_s,
            leave_grace_s=settings.meeting_leave_grace_s,
        )
