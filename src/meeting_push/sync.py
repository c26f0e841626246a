"""同步的发布者：给没有事件循环的后端（Django、Flask、Celery、脚本）。

两种，方法相同：``Publisher(地址, 密钥)`` 经 REST，只要 ``pip install meeting-push``；
``Publisher.into_outbox(settings)`` 直接写进 SQL 的发件箱，再往 Redis 发一条唤醒送信的（要
``[server]``，与服务用同一个数据库与 Redis），也能在应用自己的事务里发送。
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self, Unpack

from .client.publisher import RestPublisher
from .errors import MeetingPushError, MissingExtraError
from .logs import RepeatedWarning
from .model import Accepted, Draft, DraftOptions, Sender
from .person_id import PersonId

if TYPE_CHECKING:
    from .contracts import UserDirectory
    from .outbox_office import OutboxOffice
    from .settings import Settings
    from .storage.caller import SyncTransaction

__all__ = ["OutboxPublisher", "Publisher"]

#: 系统自己：没有说替谁发的。
_SYSTEM = Sender(None, "system")


class Publisher(RestPublisher):
    """经 REST 的；``Publisher.into_outbox`` 给出写发件箱的。"""

    @staticmethod
    def into_outbox(
        settings: Settings, *, directory: UserDirectory | None = None
    ) -> OutboxPublisher:
        """``settings`` 的数据库与 Redis 要与送信的服务相同；``directory`` 同 ``MeetingPush`` 的。

        :raises MissingExtraError: 没有装 ``[server]``
        """
        return OutboxPublisher(settings, directory)


class OutboxPublisher:
    """几个线程可共用，``fork`` 之后也行；用完 ``close``（``with`` 也行）。

    提交之后叫醒送信的：不到 0.1 秒就进信箱；Redis 不在也照收，好了之后由扫描送出。错误同
    ``MessageService.send_batch``。
    """

    def __init__(self, settings: Settings, directory: UserDirectory | None = None) -> None:
        self._given = settings, directory
        self._lock = threading.Lock()
        self._office: OutboxOffice | None = None
        self._pid = 0
        self._not_rung = RepeatedWarning("outbox_bell_failed")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """放开连接；之后还可以调用。"""
        with self._lock:
            office, self._office = self._office, None
        if office is not None and self._pid == os.getpid():
            office.close()

    def send(
        self,
        recipient_ids: Sequence[PersonId],
        title: str,
        content: str,
        *,
        idempotency_key: str | None = None,
        sender: Sender | None = None,
        **options: Unpack[DraftOptions],
    ) -> Accepted:
        """发一条；返回即已提交，不会丢。"""
        draft = Draft(recipient_ids=tuple(recipient_ids), title=title, content=content, **options)
        return self._send(sender or _SYSTEM, [draft], idempotency_key)[0]

    def send_batch(
        self, drafts: Sequence[Draft], *, idempotency_key: str | None = None
    ) -> list[Accepted]:
        """一个事务里发一批，全部或全不；一批只有一个发送者（头一条说的）。"""
        sender = (drafts[0].sender if drafts else None) or _SYSTEM
        return self._send(sender, drafts, idempotency_key)

    def send_in_transaction(
        self, transaction: SyncTransaction, draft: Draft, *, sender: Sender | None = None
    ) -> Accepted:
        """在应用自己的 SQLAlchemy 事务里发送；提交之后叫 ``notify_committed``。"""
        messages = self._opened().messages
        return messages.send_in_transaction_sync(transaction, sender or _SYSTEM, draft)

    def notify_committed(self) -> None:
        """叫醒送信的；可随意多调用。叫不醒只记一行：几秒之内总有一次扫描。"""
        try:
            self._opened().ring()
        except MeetingPushError as error:
            self._not_rung.say(code=error.code, cause=error.cause)

    def _send(
        self, sender: Sender, drafts: Sequence[Draft], idempotency_key: str | None
    ) -> list[Accepted]:
        accepted = self._opened().send(sender, drafts, idempotency_key)
        self.notify_committed()
        return accepted

    def _opened(self) -> OutboxOffice:
        with self._lock:
            if self._office is None or self._pid != os.getpid():
                try:
                    from .outbox_office import OutboxOffice
                except ModuleNotFoundError as error:
                    raise MissingExtraError("into_outbox", error, "server") from error
                self._office, self._pid = OutboxOffice(*self._given), os.getpid()
            return self._office
