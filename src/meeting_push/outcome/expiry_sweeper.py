"""过期清理：过了有效期还没有结局的收件人记为 expired，先 SQL，后 Redis。

别的各站只是不再投递过期的（中继、消费者、信箱、重试），状态都由这里记。每一轮由一个节点做；
偶尔两个节点一起做也无害，都是幂等的。
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final

from ..logs import RepeatedWarning, logger
from ..model import DeliveryStatus, FailureCause
from ..redis.claims import Turn
from ..redis.outcomes import Outcomes
from ..redis.presence import Whereabouts, whereabouts
from ..redis.redis_service import RedisService
from ..storage.id_list import Recipient
from ..storage.outcomes import Expirable, OutcomeRepository
from ..supervision import Aside, periodically
from .dead_letters import DeadLetters
from .delivery_confirmation_service import DueReceipt, Receipts

#: 过期之后再等一下：已通过检查、正在途中的投递先落进信箱，好一并移出。
GRACE_MS: Final = 1_000
PAGE_MESSAGES: Final = 500
#: 一个事务至多大约这么多个收件人。
BATCH_RECIPIENTS: Final = 5_000


class ExpirySweeper:
    """``run`` 是它的一生，由监督者重启。"""

    def __init__(
        self,
        *,
        redis: RedisService,
        outcomes: Outcomes,
        record: OutcomeRepository,
        dead_letters: DeadLetters,
        receipts: Receipts,
        interval_s: float,
        agreed: Callable[[], Awaitable[int]],
        aside: Aside,
    ) -> None:
        #: 占住一个间隔；占着的节点死了，下一轮就是别人的。
        self._turn = Turn(redis.lean, redis.keys.expiry_turn, max(1, int(interval_s * 900)))
        self._redis = redis
        self._outcomes = outcomes
        self._record = record
        self._dead_letters = dead_letters
        self._receipts = receipts
        self._interval_s = interval_s
        self._aside = aside
        self._agreed = agreed
        self._failed = RepeatedWarning("expiry_sweep_failed")
        #: 本进程记下的过期数；按类。
        self.expired = 0
        self.causes: Counter[FailureCause] = Counter()

    async def run(self) -> None:
        await periodically(self._round, partial(asyncio.sleep, self._interval_s), self._failed)

    async def _round(self) -> None:
        now = await self._agreed()  # 钟不对的先让开：轮次归别人
        if await self._turn.take_anew():
            await self.sweep(now)
            await self._dead_letters.drop_expired(now)

    async def sweep(self, now: int | None = None) -> int:
        """清理全部过期的，返回这次记下几个收件人。收不回来，所以只认各家的钟一致的时刻。

        :raises ClockDisagreesError: 我们的钟与别家对不上；什么也没有做
        """
        now = await self._agreed() if now is None else now
        before, last = self.expired, None
        # 按位置翻页：清理不了的留在原处，不挡后面的
        while page := await self._record.expirable(now - GRACE_MS, PAGE_MESSAGES, last):
            for batch in _batches(page):
                await self._aside.isolate(
                    batch, partial(self._expire, now), lambda one: one.message_id
                )
            last = page[-1]
        return self.expired - before

    async def _expire(self, now: int, batch: Sequence[Expirable]) -> None:
        ids = [message.message_id for message in batch]
        by_id = {message.message_id: message for message in batch}
        ended = await self._record.record_expired(ids, now, await self._causes(by_id))
        fresh = [pair for pairs in ended.values() for pair in pairs]
        # 全部过期的，不只刚刚的：上一轮可能死在记录与移出之间
        await self._aside.isolate(
            [(i, user, by_id[i].expires_at) for i, user in await self._expired(ids)],
            self._outcomes.expire,
        )
        await self._record.mark_expired(ids, now)
        await self._receipts.send(
            [
                DueReceipt(message_id, to, user_id, by_id[message_id].expires_at)
                for message_id, user_id in fresh
                if (to := by_id[message_id].receipt_to) is not None
            ],
            DeliveryStatus.EXPIRED,
        )
        if fresh:
            self.expired += len(fresh)
            self.causes.update({c: len(pairs) for c, pairs in ended.items() if c is not None})
            logger.bind(messages=len(batch), recipients=len(fresh)).info("messages_expired")

    async def _expired(self, message_ids: Sequence[str]) -> list[Recipient]:
        return await self._record.pairs_of(message_ids, DeliveryStatus.EXPIRED)

    async def _causes(self, by_id: Mapping[str, Expirable]) -> dict[FailureCause, list[Recipient]]:
        """还没有结局的各归哪一类；记下之前就问：记下了就要移出信箱。"""
        pairs = await self._record.pairs_of(list(by_id), DeliveryStatus.PENDING)
        reached = await self._outcomes.reached(pairs)
        users = sorted({user_id for _, user_id in pairs})
        found = await whereabouts(self._redis.lean, self._redis.keys, users)
        where = dict(zip(users, found, strict=True))
        causes: defaultdict[FailureCause, list[Recipient]] = defaultdict(list)
        for pair, arrived in zip(pairs, reached, strict=True):
            message_id, user_id = pair
            queued = arrived and by_id[message_id].enqueued_at is not None
            causes[_why_expired(where[user_id], reached=queued)].append(pair)
        return causes


def _why_expired(user: Whereabouts, *, reached: bool) -> FailureCause:
    """没有到过信箱的是我们慢了；到了而他连着，是他没有确认；他不在，看他怎样走的。"""
    if not reached:
        return FailureCause.SYSTEM
    if user.online:
        return FailureCause.CLIENT
    return user.left or FailureCause.POLICY


def _batches(page: Sequence[Expirable]) -> Iterator[list[Expirable]]:
    batch: list[Expirable] = []
    size = 0
    for message in page:
        if batch and size + message.recipient_count > BATCH_RECIPIENTS:
            yield batch
            batch, size = [], 0
        batch.append(message)
        size += message.recipient_count
    if batch:
        yield batch
