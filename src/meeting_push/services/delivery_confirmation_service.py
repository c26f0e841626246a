"""送达确认：ack 成批写入，先记录，后移出信箱。

次序是承诺的一部分（DLV-1）：① Redis 状态 ② SQL 记录 ③ 移出信箱。死在任何两步之间，
消息仍在信箱里，重连时以同一个 ``message_id`` 再来一次；绝不会“移出了却没有记录”。
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from loguru import logger

from ..clock import Clock, now_ms
from ..errors import MeetingPushError, NotFoundError
from ..model import Ack, AckOutcome, DeliveryStatus, Message
from ..protocol import frames
from ..redis.scripts import Script
from ..storage.recipients import DeliveredRow, RecipientRepository
from ..storage.rows import DeliveryCounts, RecipientPage
from .message_publisher import MessagePublisher
from .offline_message_queue import OfflineMessageQueue
from .redis_service import RedisService

_confirm: Final = Script("confirm")
#: 一批至多这么多行：一条 SQL 与一段 Lua 的合适大小。
BATCH_ROWS: Final = 2_000
RETRY_AFTER_S: Final = 0.5


class DeliveryConfirmationService:
    """实现 ``contracts.AckSink``，并回答“这条消息到哪了”。"""

    def __init__(
        self,
        *,
        redis: RedisService,
        recipients: RecipientRepository,
        mailbox: OfflineMessageQueue,
        publisher: MessagePublisher,
        flush_ms: float,
        status_ttl_s: int,
        clock: Clock = now_ms,
    ) -> None:
        self._redis = redis
        self._recipients = recipients
        self._mailbox = mailbox
        self._publisher = publisher
        self._flush_s = flush_ms / 1000
        self._status_ttl_ms = status_ttl_s * 1000
        self._clock = clock
        self._rows: list[DeliveredRow] = []
        #: 已记进 Redis、等 SQL 也记下才发的回执（见 confirm.lua 的返回值）
        self._receipts: list[bytes] = []
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    # ── 登记 ────────────────────────────────────────────────────────────────

    def record(self, user_id: int, acks: Sequence[Ack]) -> None:
        self._rows += [(a.message_id, user_id, a.sent_at, a.acked_at) for a in acks]
        self._idle.clear()
        self._wake.set()

    async def confirm(
        self, user_id: int, message_ids: Sequence[str], now: int | None = None
    ) -> AckOutcome:
        now = self._clock() if now is None else now
        held, acked, unknown = await self._mailbox.contains(user_id, message_ids)
        # 不在本连接推过：推送时刻不得而知，以确认时刻为上界
        self.record(
            user_id, [Ack(message_id, seq=0, sent_at=now, acked_at=now) for message_id in held]
        )
        return AckOutcome(len(held) + len(acked), tuple(unknown))

    async def open_status(self, batch: Sequence[tuple[Message, Sequence[int]]]) -> None:
        """入队时开一张状态表：总数、发送者、要不要回执。"""
        replies = []
        for message, recipients in batch:
            key = self._redis.keys.delivery_status(message.message_id)
            fields: list[str | int] = ["total", len(recipients), "sender_id", message.sender.id]
            if message.receipt:
                fields += ["receipt_to", message.sender.id]
            replies.append(self._redis.lean.execute("HSET", key, *fields))
            replies.append(self._redis.lean.execute("PEXPIRE", key, self._status_ttl_ms))
        await asyncio.gather(*replies)

    # ── 写入 ────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """写入循环：攒 ``flush_ms``，成批写；失败就留着重试，取消时不丢正在写的一批。"""
        while True:
            await self._wake.wait()
            self._wake.clear()
            await asyncio.sleep(self._flush_s)
            while self._rows:
                await self._flush_batch()
            self._idle.set()

    async def drain(self, timeout_s: float) -> None:
        """等已登记的全部写完（关机时）；超时就放手，信箱里还有。"""
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        except TimeoutError:
            logger.bind(acks=len(self._rows)).warning("acks_left_at_shutdown")

    async def _flush_batch(self) -> None:
        batch = self._rows[:BATCH_ROWS]
        try:
            self._receipts += await self._record_in_redis(batch)
            await self._recipients.record_delivered(batch)
            await self._mailbox.remove(_by_user(batch))
        except MeetingPushError as error:
            logger.bind(code=error.code, acks=len(self._rows)).warning("ack_flush_deferred")
            await asyncio.sleep(RETRY_AFTER_S)
            return
        del self._rows[: len(batch)]
        receipts, self._receipts = self._receipts, []
        await self._send_receipts(receipts)

    async def _record_in_redis(self, batch: Sequence[DeliveredRow]) -> list[bytes]:
        flat = [value for row in batch for value in row]
        receipts = await _confirm.run(
            self._redis.lean, [], [self._redis.keys.prefix, self._status_ttl_ms, *flat]
        )
        return list(receipts)

    async def _send_receipts(self, flat: Sequence[bytes]) -> None:
        for index in range(0, len(flat), 4):
            message_id, sender, user_id, acked_at = flat[index : index + 4]
            frame = frames.Receipt(
                message_id=message_id.decode(),
                recipient_id=int(user_id),
                status=DeliveryStatus.DELIVERED,
                timestamp=int(acked_at),
            )
            try:
                await self._publisher.publish_frame(int(sender), frames.encode(frame))
            except MeetingPushError as error:  # 回执是瞬时的：状态已记录，可以查询
                logger.bind(code=error.code).warning("receipt_lost")

    # ── 查询 ────────────────────────────────────────────────────────────────

    async def get_message_delivery_status(
        self, message_id: str, *, cursor: int = 0, limit: int = 100
    ) -> tuple[DeliveryCounts, RecipientPage]:
        """各状态的人数与一页收件人（user_id 升序，``cursor`` 之后）。

        :raises NotFoundError: 没有这条消息
        """
        counts = await self._recipients.counts(message_id)
        if not counts.total:
            raise NotFoundError("no such message")
        return counts, await self._recipients.page(message_id, cursor, limit)


def _by_user(rows: Sequence[DeliveredRow]) -> list[tuple[int, list[str]]]:
    by_user: defaultdict[int, list[str]] = defaultdict(list)
    for message_id, user_id, _, _ in rows:
        by_user[user_id].append(message_id)
    return list(by_user.items())
