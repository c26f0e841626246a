"""一个人的一天在 Redis 里占多少：真的填，看 ``used_memory``。

状态、正文、信箱、续传日志照投递的一次写出写；然后都确认；然后像过了一小时那样，正文与状态没有了，
剩下的是续传日志，留 ``MESSAGE_TTL_S``。
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec
from ulid import ULID

from meeting_push.clock import now_ms
from meeting_push.mailbox_model import Delivery
from meeting_push.model import Message, Outgoing, Sender
from meeting_push.protocol.envelope import encode_tail
from meeting_push.redis.bodies import Bodies
from meeting_push.redis.mailboxes import Mailboxes, MailboxLimits
from meeting_push.redis.outcomes import Outcomes
from meeting_push.redis.redis_service import RedisService

from .measured import Measurements
from .progress import OnProgress
from .redis_child import redis_memory

DAY_MS: Final = 86_400_000
TTL_MS: Final = 7 * DAY_MS
_LIMITS: Final = MailboxLimits(1_000, 1_000, TTL_MS, TTL_MS + 30 * DAY_MS)
_COMPRESS_ABOVE: Final = 1_024
_BATCH: Final = 100


class DayPlan(msgspec.Struct, frozen=True, kw_only=True):
    """每人 ``each_day`` 条，一条 ``recipients`` 个收件人，正文 ``content_bytes`` 字节。"""

    people: int = 10_000
    days: int = 2
    each_day: int = 20
    recipients: int = 10
    content_bytes: int = 500


async def measure_days(
    redis: RedisService, plan: DayPlan, found: Measurements, on_progress: OnProgress
) -> None:
    """第一天连同各键本身，后来的一天只是多出来的；都按人平均。"""
    lab = _Lab(redis, plan)
    empty = before = await redis_memory(redis)
    for day in range(plan.days):
        await lab.deliver_day()
        waiting = await redis_memory(redis) - before
        await lab.ack_all()
        acked = await redis_memory(redis) - before
        await lab.an_hour_later()
        left = await redis_memory(redis) - before
        before = await redis_memory(redis)
        on_progress(day + 1, plan.days)
        for name, label, value in (
            ("waiting", "nobody has acked", waiting),
            ("acked", "  all acked", acked),
            ("left", "  an hour later, kept MESSAGE_TTL_S", left),
        ):
            found.add(f"day_{day + 1}_{name}", f"day {day + 1}: {label}", value / plan.people, "B")
    pairs = plan.days * plan.people * plan.each_day
    kept = (await redis_memory(redis) - empty) / pairs
    found.add("kept_pair", "kept for each (message, recipient)", kept, "B", "lower")


class _Lab:
    def __init__(self, redis: RedisService, plan: DayPlan) -> None:
        self._redis = redis
        self._plan = plan
        self._boxes = Mailboxes(redis.lean, redis.keys, _LIMITS)
        self._bodies = Bodies(redis.lean, redis.keys, _COMPRESS_ABOVE, TTL_MS)
        self._outcomes = Outcomes(redis.lean, redis.keys, TTL_MS)
        self._sent: list[Outgoing] = []

    async def deliver_day(self) -> None:
        self._sent = list(self._messages())
        for start in range(0, len(self._sent), _BATCH):
            batch, now = self._sent[start : start + _BATCH], now_ms()
            bodies = [
                (m.message_id, encode_tail(m), m.priority, m.expires_at)
                for m in (item.message for item in batch)
            ]
            ahead = [*self._bodies.opening(batch, now), *self._bodies.storing(bodies)]
            deliveries = [
                Delivery(
                    message_id=body[0],
                    tail=body[1],
                    recipient_ids=tuple(item.recipient_ids),
                    priority=0,
                    expires_at=body[3],
                )
                for item, body in zip(batch, bodies, strict=True)
            ]
            await self._boxes.deliver(deliveries, publish=False, ahead=ahead)

    async def ack_all(self) -> None:
        now = now_ms()
        for start in range(0, len(self._sent), _BATCH):
            some = self._sent[start : start + _BATCH]
            pairs = [(i.message.message_id, one) for i in some for one in i.recipient_ids]
            rows = [(message_id, user_id, now, now + 50) for message_id, user_id in pairs]
            async for _ in self._outcomes.confirm(rows):
                pass
            await self._boxes.remove([(user_id, [message_id]) for message_id, user_id in pairs])

    async def an_hour_later(self) -> None:
        keys = self._redis.keys
        ids = [item.message.message_id for item in self._sent]
        for start in range(0, len(ids), _BATCH):
            some = ids[start : start + _BATCH]
            of = (keys.message_body, keys.delivery_status)
            await self._redis.lean.unlink([key(i) for i in some for key in of])

    def _messages(self) -> Iterator[Outgoing]:
        """收件人轮着来，所以每个人恰好 ``each_day`` 条。"""
        plan, now = self._plan, now_ms()
        count = plan.people * plan.each_day // plan.recipients
        for number in range(count):
            first = number * plan.recipients
            yield Outgoing(
                Message(
                    message_id=str(ULID()),
                    message_type="message",
                    priority=0,
                    title="标题",
                    content=f"{number:08d}" + "c" * (plan.content_bytes - 8),
                    sender=Sender(plan.people + 1, "ann"),
                    timestamp=now,
                    expires_at=now + TTL_MS,
                ),
                [1 + (first + each) % plan.people for each in range(plan.recipients)],
            )
