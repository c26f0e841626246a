"""广播服务：接受一条发给所有人的消息，回答多少人确认过。"""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from typing import Final

import msgspec
from ulid import ULID

from ..clock import Clock, now_ms
from ..errors import IdempotencyConflictError
from ..model import Accepted, Draft, Message, Sender
from ..storage.broadcasts import BroadcastRepository
from ..storage.database import Database
from ..storage.idempotency import IdempotencyRepository
from ..storage.rows import StoredResponse
from .broadcast_relay import BroadcastRelay
from .draft_rules import DraftRules
from .message_service import check_idempotency_key

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
        self._idempotency = idempotency
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
        :raises DatabaseUnavailableError: 什么都没有保存
        """
        now = self._clock()
        self._rules.check_message(draft, now)
        key = check_idempotency_key(idempotency_key)
        message = self._message(sender, draft, now)
        accepted = await self._store(message, draft, key)
        self._relay.wake()
        return accepted

    async def delivered_count(self, message_id: str) -> int | None:
        """多少人确认过这条广播；不是广播则 None。总人数不得而知：用户是别人的。"""
        return await self._record.delivered_count(message_id)

    async def _store(self, message: Message, draft: Draft, key: str | None) -> Accepted:
        accepted = Accepted(message.message_id, 0, message.timestamp)
        mine = _response(draft, accepted)
        while True:
            async with self._database.transaction() as connection:
                if key is not None:
                    sender_id = message.sender.id
                    earlier = await self._idempotency.find(connection, sender_id, key)
                    if earlier is not None:
                        return _answer(earlier, mine)
                    if not await self._idempotency.save(
                        connection, sender_id, key, mine, message.timestamp
                    ):
                        continue  # 输给并发的同键请求：再来一遍就能读到它的结果
                await self._record.insert(connection, message)
                return accepted

    def _message(self, sender: Sender, draft: Draft, now: int) -> Message:
        ttl_s = draft.expires_in_s if draft.expires_in_s is not None else self._rules.max_ttl_s
        return Message(
            message_id=str(ULID.from_timestamp(now / 1000)),
            message_type=draft.message_type,
            priority=draft.priority,
            title=draft.title,
            content=draft.content,
            sender=sender,
            timestamp=now,
            expires_at=max(now, draft.deliver_at or 0) + ttl_s * 1000,
            deliver_at=draft.deliver_at,
            data=draft.data,
        )


def _response(draft: Draft, accepted: Accepted) -> StoredResponse:
    request = msgspec.json.encode(asdict(draft), order="deterministic")
    return StoredResponse(
        hashlib.sha256(b"broadcast" + request).digest(), msgspec.json.encode(accepted).decode()
    )


def _answer(earlier: StoredResponse, mine: StoredResponse) -> Accepted:
    if earlier.request_hash != mine.request_hash:
        raise IdempotencyConflictError("this Idempotency-Key was used with another body")
    return _accepted.decode(earlier.response)
