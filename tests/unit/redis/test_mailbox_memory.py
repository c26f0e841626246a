"""信箱在 Redis 里要多少内存；``-s`` 时打印 docs/performance.md 里的那张表。"""

from __future__ import annotations

from uuid import uuid4

from ulid import ULID

from meeting_push.clock import now_ms
from meeting_push.mailbox_model import Delivery
from meeting_push.redis.keys import Keys
from meeting_push.redis.mailboxes import Mailboxes, MailboxLimits
from meeting_push.redis.redis_service import RedisService

USERS = 100
#: 信箱里已有这么多条时，再加一条。
DEPTH = 11
LIMITS = MailboxLimits(1_000, 1_000, 7 * 86_400_000, 37 * 86_400_000)
KINDS = ("mailbox", "message_log", "user_seq")


async def measure(redis: RedisService, keys: Keys) -> dict[str, float]:
    """每个用户每种键的平均字节数。"""
    totals: dict[str, float] = {}
    for kind in KINDS:
        key_of = getattr(keys, kind)
        commands = [("MEMORY", "USAGE", key_of(user), "SAMPLES", 0) for user in range(1, USERS + 1)]
        totals[kind] = sum(await redis.lean.execute_many(commands)) / USERS
    return totals


async def test_an_id_in_a_mailbox_of_eleven_takes_at_most_100_bytes(redis: RedisService) -> None:
    keys = Keys(uuid4().hex[:4])  # 键名也占内存：前缀短一点才像真的
    mailboxes = Mailboxes(redis.lean, keys, LIMITS)
    grown: list[dict[str, float]] = []
    for _ in range(DEPTH):
        delivery = Delivery(
            message_id=str(ULID()),
            tail=b'"message_id":""}',
            recipient_ids=tuple(range(1, USERS + 1)),
            priority=0,
            expires_at=now_ms() + 1_000_000,
        )
        await mailboxes.deliver([delivery], publish=False)
        grown.append(await measure(redis, keys))
    per_message = {kind: size / DEPTH for kind, size in grown[-1].items()}
    for kind in KINDS:
        print(f"{kind:12} {grown[-1][kind]:7.0f} B/user {per_message[kind]:6.1f} B/message")
    assert per_message["mailbox"] <= 100
