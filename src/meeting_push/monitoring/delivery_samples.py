"""收下、投递、结局、对账的指标。"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..limits.send_limits import SendQuota
from ..node.agreed_clock import AgreedClock
from ..outcome.expiry_sweeper import ExpirySweeper
from ..outcome.mailbox_evictor import MailboxEvictor
from ..outcome.retry_service import RetryService
from ..queue.message_consumer import ConsumerStatistics
from ..supervision import Asides
from .metrics import Sample, counted
from .refused_requests import CODES, RefusedRequests


def quota_samples(quota: SendQuota) -> Iterator[Sample]:
    """API：因为发送者自己的上限而拒绝的请求。"""
    yield Sample("sends_refused", "counter", "requests over a sender's limit", quota.refused)


def refused_samples(refused: RefusedRequests) -> Iterator[Sample]:
    """REST 回答了错误的请求。"""
    text = "REST requests answered with an error"
    yield from counted("requests_refused", text, "code", refused.counts, CODES)


def worker_samples(consumers: Sequence[ConsumerStatistics]) -> Iterator[Sample]:
    """工人：取出、投递、认领、失败。"""
    yield Sample("entries_taken", "counter", "queue entries", sum(c.entries for c in consumers))
    yield Sample("delivered", "counter", "mailbox writes", sum(c.recipients for c in consumers))
    yield Sample("reached", "counter", "deliveries heard", sum(c.reached for c in consumers))
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


def expiry_samples(expiry: ExpirySweeper) -> Iterator[Sample]:
    """工人：记为过期的收件人。"""
    yield Sample("recipients_expired", "counter", "recipients expired", expiry.expired)


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
