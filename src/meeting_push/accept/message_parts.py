"""消息服务要用的存储，与它当场送出的结果。"""

from __future__ import annotations

from dataclasses import dataclass

from ..contracts import UserDirectory
from ..model import Accepted
from ..person_id import PersonId
from ..storage.database import Database
from ..storage.idempotency import IdempotencyRepository
from ..storage.inbox import InboxRepository
from ..storage.messages import MessageRepository


@dataclass(frozen=True, slots=True)
class RealtimeResult:
    """``send_realtime_message`` 的结果：当场有节点在听的收件人与其余的（已在信箱里等）。"""

    accepted: Accepted
    online: tuple[PersonId, ...]
    offline: tuple[PersonId, ...]


@dataclass(frozen=True, slots=True)
class MessageStores:
    """消息服务要用的存储。"""

    database: Database
    messages: MessageRepository
    inbox: InboxRepository
    idempotency: IdempotencyRepository
    directory: UserDirectory
