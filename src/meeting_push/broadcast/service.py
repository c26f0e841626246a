"""广播服务：接受一条发给所有人的消息，回答多少人确认过。"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import msgspec

from ..accept.drafts import DraftRules, message_from
from ..accept.idempotency import IdempotentStore, check_idempotency_key, described, stored_response
from ..clock import Clock, now_ms
from ..errors import OutcomeUnknownError
from ..model import Accepted, Draft, Message, Sender
from ..storage.broadcasts import BroadcastRepository
from ..storage.database import Connection, Database
from ..storage.messages import IdempotencyRepository
from ..storage.rows import StoredResponse
from .relay import BroadcastRelay

_accepted: Final = msgspec.json.Decoder(Accepted)


class BroadcastService:
    """``send_broadcast`` 可被取消，取消只可能发生在提交之前或之后。"""

    def __init__(
        self,
        *,
        database: Database,
        record: BroadcastRepository,
        idempotency: IdempotencyRepository,
        rules: DraftRules,
        relay: BroadcastRelay,
        clock: Clock = now_ms,
    ) -> None:
        self._database = database
        self._record = record
        self._idempotent = IdempotentStore(database, idempotency)
        self._rules = rules
        self._relay = relay
        self._clock = clock

    async def send_broadcast(
        self, sender: Sender, draft: Draft, idempotency_key: str | None = None
    ) -> Accepted:
        """返回即已提交：此后在线的立即收到，不在的在有效期内连上时收到。

        ``draft`` 没有收件人，``recipient_count`` 因而是 0；不支持回执（``receipt``）。

        :raises InvalidInputError: 草稿不合规；什么都没有保存
        :raises IdempotencyConflictError: 同一个键曾带来不同的内容
        :raises OutcomeUnknownError: 可能已保存，见 ``MessageService``
        :raises DatabaseUnavailableError: 什么都没有保存
        """
        now = self._clock()
        draft = self._rules.check_message(draft, now)
        key = check_idempotency_key(idempotency_key)
        message = message_from(
            sender, replace(draft, receipt=False), now, default_ttl_s=self._rules.max_ttl_s
        )
        accepted = await self._store(message, draft, key)
        self._relay.wake()
        return accepted

    async def delivered_count(self, message_id: str) -> int | None:
        """多少人确认过这条广播；不是广播则 None。总人数不得而知：用户是别人的。"""
        return await self._record.delivered_count(message_id)

    async def _store(self, message: Message, draft: Draft, key: str | None) -> Accepted:
        async def write(connection: Connection) -> None:
            await self._record.insert(connection, message)

        accepted = Accepted(message.message_id, 0, message.timestamp)
        if key is None:
            try:
                async with self._database.transaction() as connection:
                    await write(connection)
            except OutcomeUnknownError as error:
                raise error.without_key() from error
            return accepted
        mine = _response(draft, accepted)
        earlier = await self._idempotent.once(
            message.sender.id, key, mine, message.timestamp, write
        )
        return accepted if earlier is None else _accepted.decode(earlier)


def _response(draft: Draft, accepted: Accepted) -> StoredResponse:
    request = msgspec.json.encode(described(draft), order="deterministic")
    return stored_response(b"broadcast" + request, msgspec.json.encode(accepted))
