"""信箱的名词：一台设备的位置，连接时读到的信箱；各站之间传递的不可变值。"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import msgspec


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """一台设备的位置：在 ``epoch`` 里，seq ≤ ``last_seq`` 的都已应用。

    ``proven``：不是它声称的，是我们自己推到了那里；seq 若比它小，就是 Redis 丢了数据。
    """

    epoch: str
    last_seq: int
    proven: bool = False


@dataclass(frozen=True, slots=True)
class MailboxEntry:
    """信箱里的一条：某用户的 seq、消息 id 与优先级。"""

    seq: int
    message_id: str
    priority: int


@dataclass(frozen=True, slots=True)
class EvictedRange:
    """被挤出信箱、太多了不再逐条记得的：这段 seq 里的 ``count`` 条；其余的还在，或另有结局。"""

    from_seq: int
    to_seq: int
    count: int


class MailboxView(msgspec.Struct, frozen=True):
    """连接时读到的信箱。

    ``entries`` 已按（优先级高者在前，seq 升序）排好；``seq`` 是该用户最新的 seq；
    ``evicted``、``expired``（seq，升序）是没有确认过、却不会再来的（DLV-5），``evicted_before`` 是
    更早的；``unreadable`` 此刻读不出正文、以后还会来；
    ``resumed`` 表示 ``ResumePoint`` 被接受；``resync_reason`` 非空时设备必须用 REST 重取。
    """

    epoch: str
    seq: int
    entries: tuple[MailboxEntry, ...]
    resumed: bool = False
    resync_reason: Literal["epoch_changed", "too_far_behind"] | None = None
    evicted: tuple[int, ...] = ()
    expired: tuple[int, ...] = ()
    evicted_before: EvictedRange | None = None
    unreadable: tuple[int, ...] = ()


class Origin(NamedTuple):
    """谁发的、多急：信箱满了由此定先挤谁。"""

    sender_id: int
    priority: int
