"""谁的信箱最满、最旧：走一遍键空间。"""

from __future__ import annotations

import pytest
from ulid import ULID

from meeting_push.monitoring import inspection
from meeting_push.monitoring.inspection import MailboxSurvey, Survey
from meeting_push.redis.keys import Keys
from meeting_push.redis.mailboxes import Mailboxes, MailboxLimits
from meeting_push.redis.redis_service import RedisService

NOW = 1_800_000_000_000


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> int:
        return self.now


def mailboxes(redis: RedisService, keys: Keys) -> Mailboxes:
    return Mailboxes(redis.lean, keys, MailboxLimits(1_000, 1_000, 60_000, 90_000))


async def fill(redis: RedisService, keys: Keys, user_id: int, *accepted: int) -> None:
    """每条是那时接受的，按次序进的信箱。"""
    ids = [str(ULID.from_timestamp(at / 1_000)) for at in accepted]
    scored = [value for seq, message_id in enumerate(ids, 1) for value in (seq, message_id)]
    await redis.lean.execute("ZADD", keys.mailbox(user_id), *scored)


def users(survey: Survey) -> list[int]:
    return [head.user_id for head in survey.heads]


@pytest.fixture
def survey(redis: RedisService) -> MailboxSurvey:
    return MailboxSurvey(mailboxes(redis, redis.keys).walk, Clock())


async def test_the_fullest_and_the_slowest_come_first(
    redis: RedisService, survey: MailboxSurvey
) -> None:
    await fill(redis, redis.keys, 1, NOW - 10)
    await fill(redis, redis.keys, 2, NOW - 500, NOW - 400, NOW - 300)
    await fill(redis, redis.keys, 3, NOW - 9_000, NOW - 1)
    fullest = await survey.read("fullest", 2)
    assert fullest.complete
    assert [(head.user_id, head.size) for head in fullest.heads] == [(2, 3), (3, 2)]
    assert users(await survey.read("slowest", 3)) == [3, 2, 1]


async def test_nobody_waits_is_an_empty_list(survey: MailboxSurvey) -> None:
    found = await survey.read("fullest", 10)
    assert (found.heads, found.complete) == ([], True)


async def test_a_walk_that_is_not_over_says_so_and_the_next_one_goes_on(
    redis: RedisService, survey: MailboxSurvey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection, "WALK_S", 0.0)
    await redis.lean.execute_many(
        [("ZADD", redis.keys.mailbox(user_id), 1, str(ULID())) for user_id in range(1, 4_001)]
    )
    await fill(redis, redis.keys, 4_001, NOW, NOW)
    asked = 1
    while not (found := await survey.read("fullest", 5)).complete:
        asked += 1
    assert asked > 3
    assert users(found)[0] == 4_001
    assert len(found.heads) == 5


async def test_a_walk_just_over_is_not_walked_again(
    redis: RedisService, survey: MailboxSurvey
) -> None:
    await survey.read("fullest", 10)
    commands = redis.commands
    await survey.read("slowest", 10)
    assert redis.commands == commands


async def test_what_changed_is_seen_after_a_while(redis: RedisService) -> None:
    clock = Clock()
    survey = MailboxSurvey(mailboxes(redis, redis.keys).walk, clock)
    await survey.read("fullest", 10)
    await fill(redis, redis.keys, 7, NOW)
    clock.now += inspection.FRESH_MS
    assert users(await survey.read("fullest", 10)) == [7]


async def test_a_prefix_is_no_pattern(redis: RedisService) -> None:
    mine, others = Keys(f"{redis.keys.prefix}[a]*:"), Keys(f"{redis.keys.prefix}aaa:")
    await fill(redis, mine, 1, NOW)
    await fill(redis, others, 2, NOW)
    survey = MailboxSurvey(mailboxes(redis, mine).walk, Clock())
    assert users(await survey.read("fullest", 10)) == [1]


async def test_a_mailbox_somebody_spoiled_hides_no_other(
    redis: RedisService, survey: MailboxSurvey
) -> None:
    await redis.lean.execute("SET", redis.keys.mailbox(1), "not a mailbox")
    await redis.lean.execute("ZADD", f"{redis.keys.prefix}offline_messages:{{bob}}", 1, "x")
    await fill(redis, redis.keys, 2, NOW)
    assert users(await survey.read("fullest", 10)) == [2]
