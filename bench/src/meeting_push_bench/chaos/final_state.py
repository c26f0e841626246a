"""终局：一切平静之后，产品自己怎么说（REST），SQL 与 Redis 里实际有什么。"""

from __future__ import annotations

from msgspec import Struct


class MessageRow(Struct, frozen=True, array_like=True):
    """SQL 的 ``messages`` 一行；``outbox``：还没有记下入队。"""

    message_id: str
    sender_id: int
    title: str
    priority: int
    outbox: bool


class RecipientRow(Struct, frozen=True, array_like=True):
    """SQL 的 ``message_recipients`` 一行。"""

    message_id: str
    user_id: int
    status: str
    delivered_at: int | None


class Mailbox(Struct, frozen=True):
    """一个用户在 Redis 里的：``entries`` 是信箱，``log`` 是续传日志，都是 (message_id, seq)。"""

    user_id: int
    epoch: str
    entries: tuple[tuple[str, int], ...]
    log: tuple[tuple[str, int], ...] = ()


class Queued(Struct, frozen=True, array_like=True):
    """一个队列条目：在两条流之一、延迟集合，或死信里。"""

    queue: str
    message_id: str
    recipients: tuple[int, ...]


class Report(Struct, frozen=True):
    """``GET /messages/{id}/delivery``，全部页合在一起；问过的才有。

    ``states`` 是 (user_id, status, 时刻)。
    """

    message_id: str
    total: int
    pending: int
    delivered: int
    failed: int
    expired: int
    states: tuple[tuple[int, str, int | None], ...]


class FinalState(Struct, frozen=True, kw_only=True):
    messages: tuple[MessageRow, ...] = ()
    recipients: tuple[RecipientRow, ...] = ()
    mailboxes: tuple[Mailbox, ...] = ()
    queued: tuple[Queued, ...] = ()
    dead: tuple[Queued, ...] = ()
    reports: tuple[Report, ...] = ()
