"""会话读完一帧之后要驱动做的事；一帧恰好产生一个命令。会话自己办不了的，命令就是那一帧。"""

from __future__ import annotations

from msgspec import Struct

from ..model import Ack
from .codes import CloseCode
from .frames import ClientFrame
from .sent import Overdue

RequestIdValue = str | int | None


class Told(Struct, frozen=True):
    """会话自己定的。"""


#: 驱动要做的事。
Command = Told | ClientFrame


class Reply(Told, frozen=True):
    """把这一帧发回去，别无他事。"""

    frame: bytes


class Beat(Told, frozen=True):
    """收到心跳：登记，并发回 ``frame``。"""

    frame: bytes


class Acked(Told, frozen=True):
    """``acks`` 已对照未确认表核实；``unverified`` 的 id 不在表里，要问 ``AckSink.confirm``。"""

    acks: list[Ack]
    unverified: list[str]
    request_id: RequestIdValue


class Unanswered(Told, frozen=True):
    """这些推送等不到确认：交给 ``RetrySink``，结果以 ``RetryLadder.settle`` 回来。"""

    overdue: list[Overdue]


class Refused(Told, frozen=True):
    """坏帧：发回 ``frame``（一个 ``error``），连接保留。"""

    code: str
    frame: bytes


class Close(Told, frozen=True):
    """以 ``code`` 关闭；``frame`` 是关闭前要发的最后一个 ``error``。"""

    code: CloseCode
    frame: bytes | None = None
