"""profile ``mailbox-memory``：一个离线的收件人、一条消息，与一个人的一天，在 Redis 里占多少字节。

每个用户的信箱里先有若干条，再加一条：差就是这一条的。一条是信箱与续传日志里各一个 id；正文与状态
每条消息只一份，不随收件人增加。
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
from ulid import ULID

from meeting_push.mailbox_model import Delivery
from meeting_push.redis.mailboxes import Mailboxes, MailboxLimits
from meeting_push.redis.redis_service import RedisService

from .measured import MeasuredReport, Measurements, measured_run
from .progress import OnProgress, Steps
from .redis_child import redis_child, redis_memory, redis_version
from .redis_day import DayPlan, measure_days
from .report import Heading

#: 目标：信箱里已有这么多条时，再加一个 id 至多这么多字节。
OTHERS: Final = 10
GOAL_BYTES: Final = 100
_LIMITS: Final = MailboxLimits(
    mailbox_max_entries=1_000,
    log_max_entries=1_000,
    ttl_ms=7 * 86_400_000,
    seq_ttl_ms=37 * 86_400_000,
)
_TAIL: Final = b'"message_id":"","title":"t"}'
_PAGE: Final = 1_000


class MailboxMemoryPlan(msgspec.Struct, frozen=True, kw_only=True):
    """``others`` 条之外再加一条；``full``：另量一只装了这么多条的；``people``：一天的那些人。"""

    users: int = 10_000
    full: int = 1_000
    full_users: int = 20
    people: int = 10_000


QUICK_MAILBOX_MEMORY: Final = MailboxMemoryPlan(users=200, full=300, full_users=2, people=200)


def run_mailbox_memory(plan: MailboxMemoryPlan, heading: Heading, steps: Steps) -> MeasuredReport:
    return measured_run(plan, _measure, heading, steps)


async def _measure(plan: MailboxMemoryPlan, found: Measurements, steps: Steps) -> None:
    async with redis_child() as redis:
        version = await redis_version(redis)
        found.add("redis_major", f"Redis {version}", float(version.partition(".")[0]))
        lab = _Lab(redis)
        users = range(1, plan.users + 1)
        with steps.step(f"{plan.users:,} mailboxes of {OTHERS}, then one more") as on_progress:
            await _one_more(lab, users, found, on_progress)
        large = range(plan.users + 1, plan.users + 1 + plan.full_users)
        with steps.step(f"{plan.full_users} mailboxes of {plan.full:,}") as on_progress:
            await _full(lab, large, plan.full, found, on_progress)
    async with redis_child() as redis:
        days = DayPlan(people=plan.people)
        with steps.step(f"{days.days} days of {days.people:,} people") as on_progress:
            await measure_days(redis, days, found, on_progress)


async def _one_more(
    lab: _Lab, users: Sequence[int], found: Measurements, on_progress: OnProgress
) -> None:
    empty = await lab.memory()
    for number in range(OTHERS):
        await lab.deliver(users)
        on_progress(number + 1, OTHERS + 1)
    mailboxes, logs = await lab.sizes(users)
    before = await lab.memory()
    await lab.deliver(users)
    on_progress(OTHERS + 1, OTHERS + 1)
    mailboxes_after, logs_after = await lab.sizes(users)
    count = len(users)
    one_id = (mailboxes_after - mailboxes) / count
    label = f"an id in a mailbox with {OTHERS} others"
    found.add("mailbox_id", label, one_id, "B", "lower", goal=GOAL_BYTES)
    found.add("log_id", "  the same in the resume log", (logs_after - logs) / count, "B", "lower")
    # 分配器按档给：有的用户这一次没有多占，有的多占一整档
    grown = (await lab.memory() - before) / count
    found.add("recipient", "  both, by used_memory", grown, "B", "lower")
    average = mailboxes_after / count / (OTHERS + 1)
    found.add("mailbox_average", f"mailbox ÷ its {OTHERS + 1} ids", average, "B", "lower")
    whole = (await lab.memory() - empty) / count
    found.add("user", f"everything of a user with {OTHERS + 1}", whole, "B", "lower")


async def _full(
    lab: _Lab, users: Sequence[int], entries: int, found: Measurements, on_progress: OnProgress
) -> None:
    before = await lab.memory()
    for number in range(entries):
        await lab.deliver(users)
        on_progress(number + 1, entries)
    mailboxes, _ = await lab.sizes(users)
    average = mailboxes / len(users) / entries
    found.add("full_average", f"a mailbox of {entries:,} ÷ its ids", average, "B", "lower")
    whole = (await lab.memory() - before) / len(users)
    found.add("full_user", f"everything of a user with {entries:,}", whole, "B", "lower")


class _Lab:
    def __init__(self, redis: RedisService) -> None:
        self._redis = redis
        self._mailboxes = Mailboxes(redis.lean, redis.keys, _LIMITS)

    async def deliver(self, users: Sequence[int]) -> None:
        """一条新消息，给全部 ``users``，不发布。"""
        message_id = str(ULID())
        for start in range(0, len(users), _PAGE):
            delivery = Delivery(
                message_id=message_id,
                tail=_TAIL,
                recipient_ids=tuple(users[start : start + _PAGE]),
                priority=0,
                expires_at=4_000_000_000_000,
            )
            await self._mailboxes.deliver([delivery], publish=False)

    async def memory(self) -> int:
        return await redis_memory(self._redis)

    async def sizes(self, users: Sequence[int]) -> tuple[int, int]:
        """``MEMORY USAGE`` 之和：信箱，续传日志。"""
        keys = self._redis.keys
        return await self._sum(map(keys.mailbox, users)), await self._sum(
            map(keys.message_log, users)
        )

    async def _sum(self, keys: map[str]) -> int:
        usage = [("MEMORY", "USAGE", key, "SAMPLES", "0") for key in keys]
        return sum(await self._redis.lean.execute_many(usage))
