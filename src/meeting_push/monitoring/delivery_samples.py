"""收下、投递、结局、对账的指标；出门的事件的：每个接收者一组，等着的、死信只有轮到送它的那个进程知道。"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final, get_args

from ..accept.direct_delivery import DirectTally
from ..accept.drafts import AcceptTally
from ..deliver.offline_message_queue import OfflineMessageQueue
from ..events.receiver import SenderFigures
from ..limits.send_limits import SendQuota
from ..model import MAX_PRIORITY, MIN_PRIORITY, FailureCause, MessageKind, MessageType
from ..node.agreed_clock import AgreedClock
from ..outcome.dead_letters import DeliveryFailures
from ..outcome.delivery_confirmation_service import DeliveryConfirmationService
from ..outcome.expiry_sweeper import ExpirySweeper
from ..outcome.mailbox_evictor import MailboxEvictor
from ..outcome.retention import Retention
from ..outcome.retry_service import RetryService
from ..queue.consumer_pool import ConsumerPool
from ..queue.message_consumer import ConsumerStatistics
from ..queue.room import QueueRoom
from ..supervision import Asides
from .metrics import HistogramSample, Sample, counted


def quota_samples(quota: SendQuota) -> Iterator[Sample]:
    """API：因为发送者自己的上限而拒绝的请求。"""
    yield Sample("sends_refused", "counter", "requests over a sender's limit", quota.refused)


_KINDS: Final = [
    MessageKind(message_type, priority)
    for message_type in get_args(MessageType)
    for priority in range(MIN_PRIORITY, MAX_PRIORITY + 1)
]
#: 失败的原因里我们自己的；别的（正文、队列的意外）合用一个。
REASONS: Final = (
    *("no_ack", "cleared", "cancelled", "mailbox_evicted", "mailbox_broken"),
    *("delivered_too_often", "unreadable", "body_gone", "other"),
)


def _by_kind(name: str, text: str, counts: Mapping[MessageKind, int]) -> Iterator[Sample]:
    for kind in _KINDS:
        labels = {"message_type": kind.message_type, "priority": str(kind.priority)}
        yield Sample(name, "counter", text, counts.get(kind, 0), labels)


def accept_samples(tally: AcceptTally) -> Iterator[Sample]:
    """API：收下的。"""
    yield from _by_kind("messages_accepted", "messages accepted", tally.messages)
    yield from _by_kind("recipients_accepted", "their recipients", tally.recipients)
    text = "requests held up to 0.1 s: too much of their sender awaits delivery here"
    yield Sample("sends_paced", "counter", text, tally.paced)


def room_samples(room: QueueRoom) -> Iterator[Sample]:
    """API：停收着没有。"""
    text = "1 = nothing is accepted: the delivery queue is nearly full"
    yield Sample("accepting_paused", "gauge", text, int(room.is_paused), scope="process")


def outcome_samples(
    confirmation: DeliveryConfirmationService,
    failures: DeliveryFailures,
    expiry: ExpirySweeper,
    cancelled: int,
) -> Iterator[Sample]:
    """每个收件人的结局，先记进 SQL 的那个进程数一次；撤回的（``cancelled``）没有投递过。"""
    ended = {
        "delivered": confirmation.delivered,
        "failed": failures.failed.total(),
        "expired": expiry.expired,
    }
    text = "recipients whose delivery ended"
    yield from counted("recipients_ended", text, "outcome", ended, ())
    yield from _by_kind("recipients_acked", "first acks of recipients", confirmation.confirmed)
    reasons: Counter[str] = Counter()
    for reason, count in failures.failed.items():
        reasons[reason if reason in REASONS else "other"] += count
    reasons["cancelled"] += cancelled
    text = "recipients that failed, by reason"
    yield from counted("delivery_failures", text, "reason", reasons, REASONS)
    causes: Counter[str] = Counter()
    for counts in (failures.causes, expiry.causes, {FailureCause.POLICY: cancelled}):
        causes.update(counts)
    text = "recipients that failed or expired, by class of cause"
    yield from counted("recipients_undelivered", text, "cause", causes, FailureCause)


def erasure_samples(erased: int) -> Iterator[Sample]:
    """抹掉了几个人，由做完第一遍的那个进程数。"""
    yield Sample("people_erased", "counter", "people erased: the first pass is done", erased)


def retention_samples(retention: Retention) -> Iterator[Sample]:
    """工人：清理掉的旧行，做完了几遍。"""
    text = "old rows removed, by table"
    removed = retention.removed._asdict()
    yield from counted("retention_removed", text, "what", removed, removed)
    yield Sample("retention_passes", "counter", "passes over old messages", retention.passes)


def mailbox_samples(mailbox: OfflineMessageQueue) -> Iterator[Sample]:
    """信箱：因正文没有了而拿掉的，从记录重做的正文。"""
    text = "entries dropped for want of their body"
    yield Sample("mailbox_entries_dropped", "counter", text, mailbox.dropped)
    text = "bodies made again from the database"
    yield Sample("bodies_restored", "counter", text, mailbox.restored)


def mailbox_histograms(mailbox: OfflineMessageQueue) -> Iterator[HistogramSample]:
    text = "entries found in a mailbox when its user connects"
    yield HistogramSample("mailbox_entries", text, mailbox.sizes)


def delivered_samples(pool: ConsumerPool, direct: DirectTally) -> Iterator[Sample]:
    """投递了的：消费者的，连同不经队列的。"""
    done: list[DirectTally | ConsumerStatistics] = [direct, *pool.statistics()]
    yield Sample("delivered", "counter", "mailbox writes", sum(c.recipients for c in done))
    kinds: Counter[MessageKind] = Counter()
    for one in done:
        kinds.update(one.delivered)
    yield from _by_kind("recipients_delivered", "first mailbox writes of recipients", kinds)
    yield Sample("reached", "counter", "deliveries heard", sum(c.reached for c in done))
    text = "messages delivered by the process that accepted them"
    yield Sample("messages_direct", "counter", text, direct.messages)
    text = "messages handed to the queue after Redis refused their direct delivery"
    yield Sample("messages_handed_back", "counter", text, direct.handed_back)


def worker_samples(pool: ConsumerPool) -> Iterator[Sample]:
    """工人：人手，取出、认领、失败。"""
    consumers = pool.statistics()
    yield Sample("consumers", "gauge", "consumers at work", pool.working)
    yield Sample("entries_taken", "counter", "queue entries", sum(c.entries for c in consumers))
    yield Sample("expired", "counter", "entries expired", sum(c.expired for c in consumers))
    yield Sample("claimed", "counter", "entries claimed", sum(c.claimed for c in consumers))
    yield Sample("entries_poisoned", "counter", "poison", sum(c.poisoned for c in consumers))
    yield Sample("entries_malformed", "counter", "unreadable", sum(c.malformed for c in consumers))
    yield Sample("entries_in_hand", "gauge", "being delivered", sum(c.in_hand for c in consumers))
    yield Sample("consumer_failures", "counter", "waits", sum(c.failures for c in consumers))


def retry_samples(retries: RetryService) -> Iterator[Sample]:
    """网关：认领到的重试、放弃的登记、用完次数的失败。"""
    yield Sample("retries", "counter", "retries claimed", retries.retried)
    yield Sample("retry_claims_dropped", "counter", "claims given up", retries.dropped)
    yield Sample("no_acks", "counter", "deliveries failed without an ack", retries.failed)


def eviction_samples(evictions: MailboxEvictor) -> Iterator[Sample]:
    """被信箱上限挤出、记为失败的。"""
    yield Sample("mailbox_evictions", "counter", "recorded as failed", evictions.evicted)


def recovery_samples(
    generation: int, recoveries: int, reopened: int, stragglers: int
) -> Iterator[Sample]:
    """对账：Redis 丢了数据之后从记录重新投递的。"""
    text = "generation of the data in Redis"
    yield Sample("delivery_generation", "gauge", text, generation, scope="shared")
    yield Sample("recoveries", "counter", "times Redis had lost data", recoveries)
    yield Sample("messages_reopened", "counter", "enqueued again after a loss", reopened)
    yield Sample("stragglers_reopened", "counter", "found without a trace", stragglers)


def clock_samples(clock: AgreedClock) -> Iterator[Sample]:
    """我们的钟比 Redis 与 SQL 的快多少。"""
    skew_s, text = clock.skew_ms / 1000, "our clock ahead of the others"
    yield Sample("clock_skew_seconds", "gauge", text, skew_s, scope="process")


def aside_samples(asides: Asides) -> Iterator[Sample]:
    """各循环搁置了的坏项。"""
    for one in asides:
        labels = {"loop": one.name}
        yield Sample("items_set_aside", "counter", "spoiled items left out", one.count, labels)


#: 最早的等了这么久（秒），就算这个接收者不行。
STALE_S: Final = 600.0


def event_samples(receivers: Mapping[str, SenderFigures], rows: int) -> Iterator[Sample]:
    """``receivers``：标签 → 它的数；``rows``：这个进程写下的。"""
    if not receivers:
        return
    yield Sample("event_rows_written", "counter", "rows of events written with their facts", rows)
    for receiver, figures in receivers.items():
        label = {"receiver": receiver}
        yield from _totals(figures, label)
        yield from _now(figures, label)


def _totals(figures: SenderFigures, label: dict[str, str]) -> Iterator[Sample]:
    for name, text, value in (
        ("events_sent", "events the receiver took", figures.sent),
        ("events_send_failed", "events in attempts that failed", figures.failed),
        ("events_given_up", "events that became dead letters", figures.dead),
        ("events_forgotten", "old dead letters removed", figures.forgotten),
    ):
        yield Sample(name, "counter", text, value, label)


def _now(figures: SenderFigures, label: dict[str, str]) -> Iterator[Sample]:
    failing = figures.parked or figures.dead_waiting > 0 or figures.oldest_age_s > STALE_S
    for name, text, value in (
        ("events_waiting", "events that wait for the receiver", figures.waiting),
        ("events_dead_letters", "events given up, kept to be sent again", figures.dead_waiting),
        ("event_sender", "1 = this process sends to the receiver", int(figures.leads)),
        (
            "event_receiver_failing",
            "1 = it is gone, has dead letters, or the oldest waits for over 10 minutes",
            int(figures.leads and failing),
        ),
    ):
        yield Sample(name, "gauge", text, value, label)
    text = "age of the oldest event that waits"
    yield Sample("events_oldest_age_seconds", "gauge", text, figures.oldest_age_s, label)
