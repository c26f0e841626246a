"""Prometheus 指标：抓取时才去取各部分的统计快照，热路径上没有计数器对象。

拒绝了多少 REST 请求，为什么：每个码一个计数器，一分钟一行日志（E12）。

把各部分的统计快照译成指标；指标的名字都在这一个文件里。
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeVar

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from ..http.doorway import TURNED_AWAY, Doorway
from ..limits.send_limits import SendQuota
from ..logs import RepeatedWarning
from ..meeting.connection import MEETING_DROP_REASONS, MeetingStatistics
from ..node.agreed_clock import AgreedClock
from ..node.canary import CanaryStatistics, Hearing
from ..node.control_channel import ControlStatistics
from ..outcome.expiry_sweeper import ExpirySweeper
from ..outcome.mailbox_evictor import MailboxEvictor
from ..outcome.retry_service import RetryService
from ..presence.online_status_service import PresenceStatistics
from ..presence.seats import DeviceSeats
from ..presence.watch import WatchStatistics
from ..protocol.codes import CloseCode
from ..queue.message_consumer import ConsumerStatistics
from ..supervision import Asides
from ..websocket.lines import DROP_REASONS, EdgeStatistics
from .latency import LatencyHistogram, PushLatency

PREFIX: Final = "meeting_push_"
#: 延迟直方图的桶（毫秒）。
BUCKETS_MS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 60_000)


@dataclass(frozen=True, slots=True)
class Sample:
    """一个指标的一个值；名字不带前缀，计数器不带 ``_total``。"""

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    value: float
    labels: dict[str, str] = field(default_factory=dict)


#: 各部分交来的快照函数。
Source = Callable[[], Iterable[Sample]]


class Metrics(Collector):
    """每个 ``MeetingPush`` 一个注册表，不用全局的：一个进程里可以有两个应用。"""

    content_type: Final = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._sources: list[Source] = []
        #: 名字 → (说明, 直方图)；值是毫秒，一直累积。
        self.latencies: dict[str, tuple[str, LatencyHistogram]] = {}
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def add(self, source: Source) -> None:
        self._sources.append(source)

    def add_latency(self, name: str, help_text: str, histogram: LatencyHistogram) -> None:
        """``name`` 不带单位；指标叫 ``<name>_latency_seconds``。"""
        self.latencies[name] = (help_text, histogram)

    def samples(self) -> Iterator[Sample]:
        for source in self._sources:
            yield from source()

    def render(self) -> bytes:
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for sample in self.samples():
            family = families.get(sample.name) or _family(sample)
            families[sample.name] = family
            suffix = "_total" if sample.kind == "counter" else ""
            family.add_sample(family.name + suffix, sample.labels, sample.value)
        yield from families.values()
        for name, (help_text, histogram) in self.latencies.items():
            yield _latency_family(name, help_text, histogram)


def _family(sample: Sample) -> Metric:
    name = PREFIX + sample.name
    if sample.kind == "counter":
        return CounterMetricFamily(name, sample.help)
    return GaugeMetricFamily(name, sample.help)


def _latency_family(name: str, help_text: str, histogram: LatencyHistogram) -> Metric:
    counts = histogram.at_most(BUCKETS_MS)
    help_text += "; a sample, at most one a millisecond: _count is not how many there were"
    buckets = [(str(ms / 1000), count) for ms, count in zip(BUCKETS_MS, counts, strict=True)]
    family = HistogramMetricFamily(f"{PREFIX}{name}_latency_seconds", help_text)
    family.add_metric([], [*buckets, ("+Inf", histogram.count)], histogram.total() / 1000)
    return family


#: 从启动起就有 0 的。
CODES: Final = (
    "invalid_input",
    "unauthenticated",
    "invalid_token",
    "token_expired",
    "bad_credentials",
    "forbidden",
    "not_found",
    "payload_too_large",
    "rate_limited",
    "queue_full",
    "redis_unavailable",
    "database_unavailable",
    "outcome_unknown",
)
#: 码是我们定的，本就不多；意外之外的合用一个。
_MAX_CODES: Final = 100


class RefusedRequests:
    """一个进程一个；``counts`` 只增。"""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._warnings: dict[str, RepeatedWarning] = {}

    def note(self, status: int, code: str) -> None:
        if code not in self._warnings:
            if len(self._warnings) >= _MAX_CODES:
                code = "others"
            # 429 与 5xx 是运维的事；其余多半是客户端自己的
            level = "WARNING" if status == 429 or status >= 500 else "INFO"
            context = {"code": code, "status": status}
            self._warnings.setdefault(
                code, RepeatedWarning("requests_refused", level=level, context=context)
            )
        self.counts[code] += 1
        self._warnings[code].say()


Key = TypeVar("Key", str, int)


#: 我们关闭连接用的码；还没用过的也从 0 开始有：告警的增速要有起点（C12）。
_CLOSES: Final = tuple(CloseCode)


def _counted(
    name: str, text: str, label: str, counts: Mapping[Key, int], known: Iterable[Key]
) -> Iterator[Sample]:
    """按标签分的计数器；``known`` 里还没发生过的是 0。"""
    for value, count in {**dict.fromkeys(known, 0), **counts}.items():
        yield Sample(name, "counter", text, count, {label: str(value)})


def process_samples() -> Iterator[Sample]:
    """进程：事件循环里的任务；只增不减就是有人忘了结束它。须在事件循环里调用。"""
    yield Sample("asyncio_tasks", "gauge", "tasks of the event loop", len(asyncio.all_tasks()))


def edge_samples(edge: EdgeStatistics) -> Iterator[Sample]:
    """网关：连接、推送、确认、丢弃、关闭。"""
    yield Sample("connections", "gauge", "authenticated connections", edge.connections)
    yield Sample("connected_users", "gauge", "users with a connection here", edge.users)
    yield Sample("sockets", "gauge", "open sockets, handshakes included", edge.sockets)
    yield Sample("connections_waiting", "gauge", "sockets waiting to be admitted", edge.waiting)
    yield Sample("connections_opened", "counter", "connections accepted", edge.connections_opened)
    yield Sample("frames_pushed", "counter", "frames written to clients", edge.frames_pushed)
    yield Sample("bytes_pushed", "counter", "bytes written to clients", edge.bytes_pushed)
    yield Sample("acks", "counter", "message acks received", edge.acks)
    yield Sample("heartbeats", "counter", "heartbeats received", edge.heartbeats)
    yield Sample("bad_frames", "counter", "refused client frames", edge.bad_frames)
    yield Sample("auth_failures", "counter", "refused handshakes", edge.auth_failures)
    yield Sample("origins_refused", "counter", "foreign origins refused", edge.origins_refused)
    yield Sample("rereads", "counter", "mailboxes read again", edge.rereads)
    yield Sample(
        "flushed_messages", "counter", "messages sent from a mailbox", edge.flushed_messages
    )
    yield from _counted("drops", "frames not pushed", "reason", edge.drops, DROP_REASONS)
    yield from _counted("closes", "connections closed by us", "code", edge.closes, _CLOSES)


def door_samples(doorway: Doorway) -> Iterator[Sample]:
    """还没有到路由就拒绝、掐断的。"""
    away = doorway.turned_away
    yield from _counted("turned_away", "refused at the door", "reason", away, TURNED_AWAY)


def refused_samples(refused: RefusedRequests) -> Iterator[Sample]:
    """REST 回答了错误的请求。"""
    text = "REST requests answered with an error"
    yield from _counted("requests_refused", text, "code", refused.counts, CODES)


def push_samples(push: PushLatency) -> Iterator[Sample]:
    """推得太晚的（预约的、积压的）；及时的见延迟直方图。"""
    yield Sample(
        "late_pushes", "counter", "pushed minutes after being accepted (sampled)", push.late
    )


def seat_samples(seats: DeviceSeats) -> Iterator[Sample]:
    """每个用户的设备数。"""
    yield Sample("seats", "gauge", "seats held by this node", seats.held)
    yield Sample("seats_refused", "counter", "connections over the device limit", seats.refused)


def canary_samples(canary: CanaryStatistics) -> Iterator[Sample]:
    """听力；``canary_hearing`` 为 1 的那一项是此刻的。"""
    for state in Hearing:
        now = int(state.value == canary.hearing)
        yield Sample("canary_hearing", "gauge", "1 = current", now, {"state": state.value})
    yield Sample("canary_heard", "counter", "canaries heard", canary.heard)
    yield Sample("canary_missed", "counter", "canaries lost", canary.missed)
    yield Sample("canary_resets", "counter", "forced re-subscriptions", canary.resets)
    yield Sample("canary_round_trip_seconds", "gauge", "last through Redis", canary.last_ms / 1000)


def presence_samples(presence: PresenceStatistics, watch: WatchStatistics) -> Iterator[Sample]:
    """在线状态：写入、收拾、对账、关注。"""
    written = presence.changes_written
    yield Sample("presence_pending", "gauge", "changes not written yet", presence.pending)
    yield Sample("presence_written", "counter", "connection writes", written)
    yield Sample(
        "presence_heartbeats_written", "counter", "heartbeats kept", presence.heartbeats_written
    )
    yield Sample("nodes_reaped", "counter", "dead nodes cleaned up", presence.nodes_reaped)
    yield Sample(
        "connections_reaped", "counter", "dead connections removed", presence.connections_reaped
    )
    yield Sample("presence_swept", "counter", "connections compared", presence.swept)
    for action, count in (
        ("written", presence.reconciled_written),
        ("removed", presence.reconciled_removed),
    ):
        yield Sample("presence_reconciled", "counter", "differences", count, {"action": action})
    yield Sample("watchers", "gauge", "connections that watch somebody", watch.watchers)
    yield Sample("watched_users", "gauge", "users watched from here", watch.watched)
    yield Sample("presence_announced", "counter", "changes told to watchers", watch.announced)
    yield Sample("presence_malformed", "counter", "presence payloads dropped", watch.malformed)


def control_samples(control: ControlStatistics) -> Iterator[Sample]:
    """控制频道：办了的、坏的、不认识的。"""
    for result, count in (
        ("handled", control.handled),
        ("malformed", control.malformed),
        ("unknown", control.unknown),
    ):
        yield Sample("control_commands", "counter", "control commands", count, {"result": result})


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


def meeting_samples(hub: MeetingStatistics) -> Iterator[Sample]:
    """会议：房间、连接、转录、丢弃、关闭。"""
    yield Sample("meetings", "gauge", "meetings with a connection here", hub.meetings)
    yield Sample("meeting_connections", "gauge", "connections in meetings", hub.connections)
    yield Sample("meeting_sockets", "gauge", "open meeting sockets", hub.sockets)
    yield Sample("meeting_frames_pushed", "counter", "frames written", hub.frames_pushed)
    yield Sample("meeting_segments_stored", "counter", "final segments", hub.segments_stored)
    yield Sample("meeting_interims", "counter", "interim segments", hub.interims_published)
    yield Sample("meeting_segments_reread", "counter", "holes filled", hub.segments_reread)
    yield Sample("meeting_refused_frames", "counter", "refused frames", hub.bad_frames)
    yield Sample("meeting_auth_failures", "counter", "refused joins", hub.auth_failures)
    drops, closes = hub.drops, hub.closes
    yield from _counted("meeting_drops", "frames dropped", "reason", drops, MEETING_DROP_REASONS)
    yield from _counted("meeting_closes", "closed by us", "code", closes, _CLOSES)


def retry_samples(retries: RetryService) -> Iterator[Sample]:
    """网关：认领到的重试、放弃的登记、用完次数的失败。"""
    yield Sample("retries", "counter", "retries claimed", retries.retried)
    yield Sample("retry_claims_dropped", "counter", "claims given up", retries.dropped)
    yield Sample("no_acks", "counter", "deliveries failed without an ack", retries.failed)


def expiry_samples(expiry: ExpirySweeper) -> Iterator[Sample]:
    """工人：记为过期的收件人。"""
    yield Sample("recipients_expired", "counter", "recipients expired", expiry.expired)


def clock_samples(clock: AgreedClock) -> Iterator[Sample]:
    """我们的钟比 Redis 与 SQL 的快多少。"""
    yield Sample(
        "clock_skew_seconds", "gauge", "our clock ahead of the others", clock.skew_ms / 1000
    )


def aside_samples(asides: Asides) -> Iterator[Sample]:
    """各循环搁置了的坏项。"""
    for one in asides:
        labels = {"loop": one.name}
        yield Sample("items_set_aside", "counter", "spoiled items left out", one.count, labels)


def eviction_samples(evictions: MailboxEvictor) -> Iterator[Sample]:
    """被信箱上限挤出、记为失败的。"""
    yield Sample("mailbox_evictions", "counter", "recorded as failed", evictions.evicted)


def recovery_samples(
    generation: int, recoveries: int, reopened: int, stragglers: int
) -> Iterator[Sample]:
    """对账：Redis 丢了数据之后从记录重新投递的。"""
    yield Sample("delivery_generation", "gauge", "generation of the data in Redis", generation)
    yield Sample("recoveries", "counter", "times Redis had lost data", recoveries)
    yield Sample("messages_reopened", "counter", "enqueued again after a loss", reopened)
    yield Sample("stragglers_reopened", "counter", "found without a trace", stragglers)


def quota_samples(quota: SendQuota) -> Iterator[Sample]:
    """API：因为发送者自己的上限而拒绝的请求。"""
    yield Sample("sends_refused", "counter", "requests over a sender's limit", quota.refused)
