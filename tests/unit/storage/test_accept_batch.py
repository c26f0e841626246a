"""成组提交：有幂等键的与没有的共用一个事务，谁也不连累谁。"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence

import pytest

from meeting_push.errors import InvalidInputError, OutcomeUnknownError
from meeting_push.model import Message, Outgoing, Sender
from meeting_push.storage.accept_batch import ENOUGH_ROWS, AcceptBatch
from meeting_push.storage.database import Database
from meeting_push.storage.idempotency import Claim, IdempotencyRepository
from meeting_push.storage.messages import MessageRepository
from meeting_push.storage.rows import StoredResponse

NOW = 1_800_000_000_000
UNSTORABLE = 2**70


def outgoing(number: int, user_id: int = 1, *, created: int = NOW) -> list[Outgoing]:
    message = Message(
        message_id=f"{number:026d}",
        message_type="message",
        priority=0,
        title="t",
        content="c",
        sender=Sender(1, "a"),
        timestamp=created,
        expires_at=NOW + 1000,
    )
    return [Outgoing(message, [user_id])]


def claim(key: str, answer: str, sender_id: int = 1) -> Claim:
    digest = hashlib.sha256(answer.encode()).digest()
    return Claim(sender_id, key, StoredResponse(digest, answer), NOW)


class Counted(MessageRepository):
    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.transactions = 0

    async def store(self, items: Sequence[Outgoing], claims: Sequence[Claim] = ()) -> bool:
        self.transactions += 1
        return await super().store(items, claims)


@pytest.fixture
def messages(database: Database) -> Counted:
    return Counted(database)


def batch_of(database: Database, messages: MessageRepository | None = None) -> AcceptBatch:
    return AcceptBatch(messages or MessageRepository(database), IdempotencyRepository(database))


async def stored(database: Database) -> set[int]:
    found = await MessageRepository(database).outbox(NOW * 2, 1000)
    return {int(one.message.message_id) for one in found}


async def test_requests_of_one_tick_share_a_commit_with_and_without_a_key(
    database: Database, messages: Counted
) -> None:
    accepts = batch_of(database, messages)
    sends = [
        accepts.insert(outgoing(number), claim(f"k{number}", "{}") if number % 2 else None)
        for number in range(10)
    ]
    assert await asyncio.gather(*sends) == [None] * 10
    assert await stored(database) == set(range(10))
    assert messages.transactions == 1


async def test_a_key_used_again_gets_the_first_answer_and_writes_nothing(
    database: Database,
) -> None:
    accepts = batch_of(database)
    first = claim("k", '{"n":1}')
    assert await accepts.insert(outgoing(1), first) is None
    assert await accepts.insert(outgoing(2), claim("k", '{"n":2}')) == first.stored
    assert await stored(database) == {1}


async def test_a_key_belongs_to_its_sender(database: Database) -> None:
    accepts = batch_of(database)
    assert await accepts.insert(outgoing(1), claim("k", "1")) is None
    assert await accepts.insert(outgoing(2), claim("k", "2", sender_id=2)) is None


async def test_a_key_used_again_does_not_harm_its_neighbours(database: Database) -> None:
    accepts = batch_of(database)
    first = claim("k", "1")
    await accepts.insert(outgoing(1), first)
    answers = await asyncio.gather(
        accepts.insert(outgoing(2)),
        accepts.insert(outgoing(3), claim("k", "3")),
        accepts.insert(outgoing(4), claim("other", "4")),
    )
    assert list(answers) == [None, first.stored, None]
    assert await stored(database) == {1, 2, 4}


async def test_of_requests_with_one_key_at_once_one_is_written(
    database: Database, messages: Counted
) -> None:
    accepts = batch_of(database, messages)
    claims = [claim("k", str(number)) for number in range(5)]
    answers = await asyncio.gather(*(accepts.insert(outgoing(n), claims[n]) for n in range(5)))
    assert answers == [None, *[claims[0].stored] * 4]
    assert await stored(database) == {0}
    assert messages.transactions == 1


async def test_two_processes_with_the_same_keys_write_each_once(database: Database) -> None:
    sides = [batch_of(database), batch_of(database)]
    keys = [[f"k{n}" for n in range(20)], [f"k{n}" for n in reversed(range(20))]]
    answers = await asyncio.gather(
        *(
            side.insert(outgoing(at * 100 + n), claim(key, f"{at}-{key}"))
            for at, side in enumerate(sides)
            for n, key in enumerate(keys[at])
        )
    )
    assert answers.count(None) == 20
    assert len(await stored(database)) == 20


async def test_what_can_not_be_stored_harms_nobody_and_leaves_its_key_free(
    database: Database,
) -> None:
    accepts = batch_of(database)
    answers = await asyncio.gather(
        accepts.insert(outgoing(1), claim("a", "1")),
        accepts.insert(outgoing(2, created=UNSTORABLE), claim("bad", "2")),
        accepts.insert(outgoing(3)),
        accepts.insert(outgoing(4), claim("b", "4")),
        return_exceptions=True,
    )
    assert [type(each) for each in answers] == [
        *(type(None), InvalidInputError, type(None), type(None))
    ]
    assert await stored(database) == {1, 3, 4}
    assert await accepts.insert(outgoing(5), claim("bad", "5")) is None


async def test_who_came_with_the_key_of_what_can_not_be_stored_tries_for_himself(
    database: Database,
) -> None:
    accepts = batch_of(database)
    answers = await asyncio.gather(
        accepts.insert(outgoing(1, created=UNSTORABLE), claim("k", "1")),
        accepts.insert(outgoing(2), claim("k", "2")),
        return_exceptions=True,
    )
    assert isinstance(answers[0], InvalidInputError)
    assert answers[1] is None
    assert await stored(database) == {2}


class Lost(MessageRepository):
    """存下之后说不知道。"""

    async def store(self, items: Sequence[Outgoing], claims: Sequence[Claim] = ()) -> bool:
        await super().store(items, claims)
        raise OutcomeUnknownError


async def test_e7_after_an_unknown_outcome_the_key_tells(database: Database) -> None:
    first = claim("k", "1")
    doubtful = batch_of(database, Lost(database))
    answers = await asyncio.gather(
        doubtful.insert(outgoing(1), first),
        doubtful.insert(outgoing(2), claim("k", "2")),
        return_exceptions=True,
    )
    assert [type(each) for each in answers] == [OutcomeUnknownError] * 2
    assert await batch_of(database).insert(outgoing(3), claim("k", "3")) == first.stored
    assert await stored(database) == {1}


async def test_e7_who_gave_up_during_the_commit_may_try_again_with_his_key(
    database: Database,
) -> None:
    accepts, first = batch_of(database), claim("k", "1")
    given_up = asyncio.create_task(accepts.insert(outgoing(1), first))
    neighbour = asyncio.create_task(accepts.insert(outgoing(2)))
    await asyncio.sleep(0)
    given_up.cancel()
    assert await neighbour is None
    with pytest.raises(asyncio.CancelledError):
        await given_up
    assert await accepts.insert(outgoing(3), claim("k", "3")) == first.stored
    assert await stored(database) == {1, 2}


FOREVER_S = 3600.0


async def test_one_sender_alone_never_waits_for_company(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meeting_push.storage.accept_batch.PACE_S", FOREVER_S)
    accepts = batch_of(database)
    for number in range(5):
        await accepts.insert(outgoing(number))


async def test_who_came_together_are_waited_for_and_no_longer(
    database: Database, messages: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meeting_push.storage.accept_batch.PACE_S", FOREVER_S)
    accepts = batch_of(database, messages)
    await asyncio.gather(*(accepts.insert(outgoing(number)) for number in range(3)))
    early = [asyncio.create_task(accepts.insert(outgoing(number))) for number in (3, 4)]
    await asyncio.sleep(0)
    await accepts.insert(outgoing(5))
    await asyncio.gather(*early)
    assert messages.transactions == 2


async def test_who_is_waited_for_in_vain_is_not_waited_for_long(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meeting_push.storage.accept_batch.PACE_S", 0.05)
    accepts = batch_of(database)
    await asyncio.gather(*(accepts.insert(outgoing(number)) for number in range(3)))
    await accepts.insert(outgoing(3))
    assert await stored(database) == set(range(4))


async def test_many_recipients_are_company_enough(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meeting_push.storage.accept_batch.PACE_S", FOREVER_S)
    accepts = batch_of(database)
    await asyncio.gather(*(accepts.insert(outgoing(number)) for number in range(3)))
    [many] = outgoing(3)
    await accepts.insert([Outgoing(many.message, range(1, ENOUGH_ROWS + 1))])
