"""信箱的名词：一次投递，一台设备的位置，从信箱里读到的；各站之间传递的不可变值。"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import msgspec

ResyncReason = Literal["epoch_changed", "too_far_behind"]


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
    resync_reason: ResyncReason | None = None
    evicted: tuple[int, ...] = ()
    expired: tuple[int, ...] = ()
    evicted_before: EvictedRange | None = None
    unreadable: tuple[int, ...] = ()


class Origin(NamedTuple):
    """谁发的、多急：信箱满了由此定先挤谁。"""

    sender_id: int
    priority: int


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """要投递的一条消息与它的（一部分）收件人；``tail`` 见 ``envelope.encode_tail``。"""

    message_id: str
    tail: bytes
    recipient_ids: tuple[int, ...]
    priority: int
    expires_at: int
    attempt: int = 0


class Delivered(NamedTuple):
    """对一个收件人的结果：它的 seq，以及发布时有几个节点在听。"""

    user_id: int
    seq: int
    receivers: int
    #: 这个用户早已确认过它：没有再进信箱，也没有发布。
    acked: bool


class EvictedBefore(NamedTuple):
    """被挤出信箱、墓碑多得合成了一段的：seq 的范围、几条、最近一次的时刻。"""

    from_seq: int
    to_seq: int
    how_many: int
    at: int


class OverfullMailbox(NamedTuple):
    """``held`` 是 (message_id, seq)，按 seq 升序；``leaving`` 立了碑还没有移出，不在其中。"""

    held: list[tuple[str, int]]
    leaving: list[str]
    #: 记着的：seq → 谁发的、多急。不在其中的要问 SQL。
    origins: dict[int, Origin]


class MailboxHead(NamedTuple):
    """一只信箱：几条，seq 最小（进来最早）的是哪一条。"""

    user_id: int
    size: int
    oldest_id: str


class OpenedMailbox(NamedTuple):
    """``mailbox``、``log`` 是 (message_id, seq)，按 seq 升序；``log`` 只在 ``resumed`` 时非空。

    ``expired`` 是过期了还没确认的 seq，升序；``resumed`` 时空着：那些日志里都有。``evicted`` 是被
    挤出的（或正要被挤出、还在 ``mailbox`` 里的）。
    """

    epoch: str
    seq: int
    resumed: bool
    resync_reason: ResyncReason | None
    mailbox: list[tuple[str, int]]
    log: list[tuple[str, int]]
    evicted_before: EvictedBefore | None
    expired: list[int]
    evicted: list[tuple[str, int]]
