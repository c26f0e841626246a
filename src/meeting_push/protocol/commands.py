"""会话读完一帧之后要驱动做的事；一帧恰好产生一个命令。"""

from __future__ import annotations

from msgspec import Struct

from ..model import Ack, PresenceStatus
from .codes import CloseCode
from .frames import ReadFrame, RefreshTokenFrame, StatusFrame, UnwatchFrame, WatchFrame
from .sent import Overdue

RequestIdValue = str | int | None


class Command(Struct, frozen=True):
    """命令之根。"""


class Reply(Command, frozen=True):
    """把这一帧发回去，别无他事。"""

    frame: bytes


class Beat(Command, frozen=True):
    """收到心跳：登记，并发回 ``frame``。"""

    frame: bytes


class Acked(Command, frozen=True):
    """``acks`` 已对照未确认表核实；``unverified`` 的 id 不在表里，要问 ``AckSink.confirm``。"""

    acks: list[Ack]
    unverified: list[str]
    request_id: RequestIdValue


class ChangeStatus(Command, frozen=True):
    status: PresenceStatus
    device_info: str | None
    request_id: RequestIdValue


class MarkRead(Command, frozen=True):
    message_ids: list[str]
    request_id: RequestIdValue


class RenewToken(Command, frozen=True):
    """驱动验证令牌，再以 ``Session.token_refreshed`` 或一个关闭码回来。"""

    token: str
    request_id: RequestIdValue

    def __repr__(self) -> str:  # 命令可能进日志，令牌不可以（SEC-2）
        return "RenewToken(token=***)"


class Watch(Command, frozen=True):
    user_ids: list[int]
    request_id: RequestIdValue


class Unwatch(Command, frozen=True):
    user_ids: list[int]
    request_id: RequestIdValue


class Unanswered(Command, frozen=True):
    """这些推送等不到确认：交给 ``RetrySink``，结果以 ``RetryLadder.settle`` 回来。"""

    overdue: list[Overdue]


class Refused(Command, frozen=True):
    """坏帧：发回 ``frame``（一个 ``error``），连接保留。"""

    code: str
    frame: bytes


class Close(Command, frozen=True):
    """以 ``code`` 关闭；``frame`` 是关闭前要发的最后一个 ``error``。"""

    code: CloseCode
    frame: bytes | None = None


def request_of(
    frame: StatusFrame | ReadFrame | RefreshTokenFrame | WatchFrame | UnwatchFrame,
) -> Command:
    """会话自己办不了的一帧：驱动去办，再回答。"""
    match frame:
        case StatusFrame():
            return ChangeStatus(frame.status, frame.device_info, frame.request_id)
        case ReadFrame():
            return MarkRead(frame.message_ids, frame.request_id)
        case RefreshTokenFrame():
            return RenewToken(frame.token, frame.request_id)
        case WatchFrame():
            return Watch(frame.user_ids, frame.request_id)
        case UnwatchFrame():
            return Unwatch(frame.user_ids, frame.request_id)
