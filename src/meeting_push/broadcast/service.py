"""广播服务：接受一条发给所有人的消息，回答多少人确认过。

广播的发件箱中继：把已提交的广播记进 ``broadcast_log`` 并发布。

``logged_at IS NULL`` 的行就是发件箱；任何进程都会扫到任何一条，记日志按 id 幂等，所以
进程死在提交与记日志之间也只送一次。
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import msgspec

from ..accept.drafts import DraftRules, check_idempotency_key, message_from
from ..accept.idempotency import IdempotentStore, described, stored_response
from ..clock import Clock, now_ms
from ..deliver.offline_message_queue import OfflineMessageQueue
from ..errors import OutcomeUnknownError
from ..logs import RepeatedWarning, logger
from ..model import Accepted, Draft, Message, Sender
from ..people.people import INTEGERS, People
from ..protocol.envelope import encode_tail
from ..redis.broadcast_log import BroadcastLog
from ..storage.broadcasts import BroadcastRepository
from ..storage.database import Database, SqlConnection
from ..storage.idempotency import IdempotencyRepository
from ..supervision import Aside, periodically, summoned

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
        check_open: Callable[[], None],
        people: People = INTEGERS,
        clock: Clock = now_ms,
    ) -> None:
        """``check_open``：停收着则抛 ``QueueFullError``，见 ``QueueRoom``。"""
        self._check_open = check_open
        self._people = people
        self._database = database
        self._record = record
        self._idempotent = IdempotentStore(database, idempotency)
        self._rules = rules
        self._relay = relay
        self._clock = clock

    async def send_broadcast(
        self,
        sender: Sender,
        draft: Draft,
        idempotency_key: str | None = None,
        *,
        key_id: int | None = None,
    ) -> Accepted:
        """返回即已提交：此后在线的立即收到，不在的在有效期内连上时收到。

        ``draft`` 没有收件人，``recipient_count`` 因而是 0；不支持回执（``receipt``）。

        :raises InvalidInputError: 草稿不合规；什么都没有保存
        :raises IdempotencyConflictError: 同一个键曾带来不同的内容
        :raises QueueFullError: 停收着；什么都没有保存
        :raises OutcomeUnknownError: 可能已保存，见 ``MessageService``
        :raises DatabaseUnavailableError: 什么都没有保存
        """
        now = self._clock()
        draft = self._rules.check_message(draft, now)
        key = check_idempotency_key(idempotency_key)
        self._check_open()
        number = await self._people.sender(sender.id)
        message = message_from(
            sender,
            msgspec.structs.replace(draft, receipt=False),
            now,
            default_ttl_s=self._rules.limits.ttl_s,
            key_id=key_id,
            sender_number=number if isinstance(sender.id, str) else None,
        )
        accepted = await self._store(message, draft, key)
        self._relay.wake()
        return accepted

    async def delivered_count(self, message_id: str) -> int | None:
        """多少人确认过这条广播；不是广播则 None。总人数不得而知：用户是别人的。"""
        return await self._record.delivered_count(message_id)

    async def _store(self, message: Message, draft: Draft, key: str | None) -> Accepted:
        async def write(connection: SqlConnection) -> None:
            await self._record.insert(connection, message)

        accepted = Accepted(message.message_id, 0, message.timestamp)
        if key is None:
            try:
                async with self._database.transaction() as connection:
                    await write(connection)
            except OutcomeUnknownError as error:
                raise error.without_key() from error
            return accepted
        mine = stored_response(described(draft), accepted, b"broadcast")
        earlier = await self._idempotent.once(message.account, key, mine, message.timestamp, write)
        return accepted if earlier is None else _accepted.decode(earlier)


BATCH_MESSAGES: Final = 100


class BroadcastRelay:
    """``interval_s``：多久扫一遍别的进程留下的与预约到时的。"""

    def __init__(
        self,
        record: BroadcastRepository,
        log: BroadcastLog,
        mailbox: OfflineMessageQueue,
        *,
        interval_s: float,
        aside: Aside,
        clock: Clock = now_ms,
    ) -> None:
        self._record = record
        self._log = log
        self._mailbox = mailbox
        self._interval_s = interval_s
        self._aside = aside
        self._clock = clock
        self._wake = asyncio.Event()
        self._deferred = RepeatedWarning("broadcast_deferred")

    def wake(self) -> None:
        """刚提交了一条：马上扫，不等间隔。"""
        self._wake.set()

    async def run(self) -> None:
        pause = partial(summoned, self._wake, self._interval_s)
        await periodically(self.sweep, pause, self._deferred)

    async def sweep(self) -> int:
        """送出全部到时的，返回条数。"""
        swept = 0
        while batch := await self._record.outbox(self._clock(), BATCH_MESSAGES):
            await self._send(batch)
            await self._record.mark_logged([m.message_id for m in batch], self._clock())
            swept += len(batch)
            logger.bind(broadcasts=len(batch)).info("broadcasts_logged")
        return swept

    async def _send(self, batch: Sequence[Message]) -> None:
        now = self._clock()
        live: list[tuple[Message, bytes]] = []

        async def encode(items: Sequence[Message]) -> None:
            live.extend([(message, encode_tail(message)) for message in items])

        # 做不出正文的不送（随这一批移出 outbox）；Redis 的错不是哪一条的，照样抛出
        await self._aside.isolate(
            [message for message in batch if message.expires_at > now],
            encode,
            lambda message: message.message_id,
        )
        await self._mailbox.store_bodies(
            [(m.message_id, tail, m.priority, m.expires_at) for m, tail in live]
        )
        for message, tail in live:
            await self._log.append(
                message.message_id,
                tail,
                priority=message.priority,
                expires_at=message.expires_at,
                now=now,
            )
