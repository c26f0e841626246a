"""统计：手算的例子，两种 SQL。"""

from __future__ import annotations

import pytest
from ulid import ULID

from meeting_push.model import Message, Outgoing, Sender
from meeting_push.outcome.delivery_confirmation_service import DeliveryStatistics, user_statistics
from meeting_push.storage.database import Database
from meeting_push.storage.messages import MessageRepository
from meeting_push.storage.outcomes import OutcomeRepository
from meeting_push.storage.recipients import DeliveryReports, RecipientRepository

NOW = 1_800_000_000_000
HOUR_MS = 3_600_000
USER, OTHER = 7, 8


class Ledger:
    def __init__(self, database: Database) -> None:
        self.database = database
        self.recipients = RecipientRepository(database)
        self.record = OutcomeRepository(database)

    async def accept(self, age_ms: int = 1_000, message_type: str = "message") -> str:
        at = NOW - age_ms
        message = Message(
            message_id=str(ULID.from_timestamp(at / 1000)),
            message_type=message_type,  # type: ignore[arg-type]
            priority=0,
            title="t",
            content="c",
            sender=Sender(1, "ann"),
            timestamp=at,
            expires_at=at + HOUR_MS,
        )
        async with self.database.transaction() as connection:
            await MessageRepository(self.database).insert(
                connection, [Outgoing(message, (USER, OTHER))]
            )
        return message.message_id

    async def deliver(self, took_ms: int, age_ms: int = 1_000) -> None:
        message_id = await self.accept(age_ms)
        await self.recipients.record_delivered([(message_id, USER, NOW, NOW + took_ms)])

    async def statistics(self, window_s: int = 86_400) -> DeliveryStatistics:
        return await user_statistics(DeliveryReports(self.database), USER, window_s, NOW)


@pytest.fixture
def ledger(database: Database) -> Ledger:
    return Ledger(database)


async def test_no_messages_have_no_rates(ledger: Ledger) -> None:
    found = await ledger.statistics()
    assert (found.total.sent, found.total.rate) == (0, None)
    assert (found.mean_ack_ms, found.p95_ack_ms, found.retry_rate) == (None, None, 0.0)


async def test_the_numbers_are_those_computed_by_hand(ledger: Ledger) -> None:
    for took_ms in range(10, 210, 10):  # 20 条：10、20 … 200 毫秒
        await ledger.deliver(took_ms)
    failed, retried, expired = [await ledger.accept(message_type="system") for _ in range(3)]
    await ledger.accept()  # 还在路上
    await ledger.record.record_attempts([(failed, USER, 3), (retried, USER, 1)])
    await ledger.record.record_failed([(failed, USER)], "no_ack", NOW)
    await ledger.record.record_failed([(retried, USER)], "cleared", NOW)
    await ledger.record.record_expired([expired], NOW)
    found = await ledger.statistics()
    total = found.total
    assert (total.sent, total.delivered, total.failed) == (24, 20, 2)
    assert (total.expired, total.pending) == (1, 1)
    assert total.rate == 20 / 23
    assert found.mean_ack_ms == 105
    assert found.p95_ack_ms == 190  # 第 19 小的
    assert found.retry_rate == 2 / 24
    assert found.reasons == {"no_ack": 1, "cleared": 1}
    assert {kind: (t.sent, t.rate) for kind, t in found.by_type.items()} == {
        "message": (21, 1.0),
        "system": (3, 0.0),
    }


async def test_the_window_and_its_buckets_go_by_the_time_of_acceptance(ledger: Ledger) -> None:
    for age_h in (0.5, 1.5, 1.75, 30):
        await ledger.deliver(5, age_ms=int(age_h * HOUR_MS))
    found = await ledger.statistics(window_s=86_400)
    start = NOW - 86_400_000
    assert {at: tally.delivered for at, tally in found.by_time.items()} == {
        start + 22 * HOUR_MS: 2,
        start + 23 * HOUR_MS: 1,
    }


async def test_other_recipients_do_not_count(ledger: Ledger) -> None:
    message_id = await ledger.accept()
    await ledger.recipients.record_delivered([(message_id, OTHER, NOW, NOW)])
    found = await ledger.statistics()
    assert (found.total.sent, found.total.delivered) == (1, 0)


async def test_dlv_4_a_late_ack_wins_in_the_record(ledger: Ledger) -> None:
    failed, expired = await ledger.accept(), await ledger.accept()
    await ledger.record.record_failed([(failed, USER)], "no_ack", NOW)
    await ledger.record.record_expired([expired], NOW)
    rows = [(message_id, USER, NOW, NOW + 1) for message_id in (failed, expired)]
    assert await ledger.recipients.record_delivered(rows) == 2
    assert await ledger.recipients.record_delivered(rows) == 0
    state = (await ledger.recipients.page(failed)).items[0]
    assert (state.status, state.failed_at, state.failure_reason) == ("delivered", None, None)


async def test_the_last_messages_of_a_person_come_newest_first(ledger: Ledger) -> None:
    oldest, failed, newest = [await ledger.accept(age_ms) for age_ms in (3_000, 2_000, 1_000)]
    await ledger.record.record_failed([(failed, USER)], "no_ack", NOW)
    await ledger.recipients.record_delivered([(newest, USER, NOW, NOW + 5)])
    found = await DeliveryReports(ledger.database).recent(USER, 2)
    assert [(one.message_id, one.status, one.failure_reason) for one in found] == [
        (newest, "delivered", None),
        (failed, "failed", "no_ack"),
    ]
    assert (found[0].timestamp, found[0].sent_at, found[0].delivered_at) == (
        *(NOW - 1_000, NOW),
        NOW + 5,
    )
    assert oldest not in [one.message_id for one in found]
