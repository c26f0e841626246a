"""网关、会议、REST 的指标：连接、推送、确认、关闭、在线、听力、门口、请求。"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final

from ..broadcast.feed import BroadcastAcks, BroadcastFeed
from ..histogram import Histogram
from ..http.doorway import TURNED_AWAY, Doorway
from ..logs import RepeatedWarning
from ..meeting.connection import MEETING_DROP_REASONS, MeetingStatistics
from ..node.canary import CanaryStatistics, Hearing
from ..node.control_channel import ControlStatistics
from ..presence.online_status_service import PresenceStatistics
from ..presence.seats import DeviceSeats
from ..presence.watch import WatchStatistics
from ..protocol.codes import CloseCode, Ending
from ..websocket.lines import DROP_REASONS, REFUSALS, EdgeStatistics
from .latency import AckLatency, PushLatency
from .metrics import HistogramSample, Sample, counted

#: 我们关闭连接用的码；还没用过的也从 0 开始有：告警的增速要有起点（C12）。
_CLOSES: Final = tuple(CloseCode)
#: 接受到套接字：这么久之内算及时。
DUE_MS: Final = 1_000


def edge_samples(edge: EdgeStatistics) -> Iterator[Sample]:
    """网关：连接、推送、确认、丢弃、关闭。"""
    yield Sample("connections", "gauge", "authenticated connections", edge.connections)
    yield Sample("event_streams", "gauge", "of connections, those over SSE", edge.streams)
    yield from _transports(edge)
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
    yield from counted("drops", "frames not pushed", "reason", edge.drops, DROP_REASONS)
    yield from counted("closes", "connections closed by us", "code", edge.closes, _CLOSES)
    yield from _refusals("", edge.refusals)
    yield from _endings("", edge.endings)
    yield from _acknowledging(edge)


def _transports(edge: EdgeStatistics) -> Iterator[Sample]:
    """``native``：我们自己的驱动；``asgi``：经应用的服务器；``sse``：没有 WebSocket。"""
    native = edge.connections - edge.streams - edge.relayed
    found = {"native": native, "asgi": edge.relayed, "sse": edge.streams}
    for transport, count in found.items():
        text = "authenticated connections, by what carries them"
        labels = {"transport": transport}
        yield Sample("connections_by_transport", "gauge", text, max(0, count), labels)


def _refusals(prefix: str, refusals: Mapping[str, int]) -> Iterator[Sample]:
    """在门口拒绝了的连接，每条一次。"""
    text = "connections refused at the door, by cause"
    yield from counted(f"{prefix}connections_refused", text, "cause", refusals, REFUSALS)


def _endings(prefix: str, endings: Mapping[str, int]) -> Iterator[Sample]:
    """每条断开了的连接一次；异常的是其中 ``Ending.is_abnormal`` 的。"""
    text = "connections that ended, by how"
    yield from counted(f"{prefix}disconnects", text, "how", endings, Ending)
    abnormal = sum(count for how, count in endings.items() if Ending(how).is_abnormal)
    text = "ended, and neither 1000, 1001 nor ours on purpose"
    yield Sample(f"{prefix}abnormal_disconnects", "counter", text, abnormal)


def _acknowledging(edge: EdgeStatistics) -> Iterator[Sample]:
    """推到连着的设备上的，与其中 30 秒之内确认了的（见 ``ack_samples``）。"""
    pushed = edge.first_pushes + edge.flushed_messages
    text = "mailbox messages pushed to a connected device for the first time"
    yield Sample("live_pushes", "counter", text, pushed)


def ack_samples(acks: AckLatency) -> Iterator[Sample]:
    """确认得及时的。"""
    text = "of live_pushes, acknowledged within 30 s"
    yield Sample("live_acks_in_time", "counter", text, acks.in_time)


def due_samples(push: PushLatency) -> Iterator[Sample]:
    """该推的在 1 秒之内到了套接字的：错误预算由此算（抽样，同延迟直方图）。"""
    [in_time] = push.histogram.at_most([DUE_MS])
    text = "messages pushed to online users (sampled, at most one a millisecond)"
    yield Sample("due_pushes", "counter", text, push.histogram.count)
    text = "of due_pushes, on the socket within 1 s of being accepted"
    yield Sample("due_pushes_in_time", "counter", text, in_time)


def door_samples(doorway: Doorway) -> Iterator[Sample]:
    """还没有到路由就拒绝、掐断的。"""
    away = doorway.turned_away
    yield from counted("turned_away", "refused at the door", "reason", away, TURNED_AWAY)


def push_samples(push: PushLatency) -> Iterator[Sample]:
    """推得太晚的（预约的、积压的）；及时的见延迟直方图。"""
    yield Sample(
        "late_pushes", "counter", "pushed minutes after being accepted (sampled)", push.late
    )


def broadcast_samples(feed: BroadcastFeed, acks: BroadcastAcks) -> Iterator[Sample]:
    """发给所有人的：目录、听到的、漏了的、确认。"""
    text = "broadcasts somebody may still need"
    yield Sample("broadcasts_remembered", "gauge", text, feed.remembered, scope="shared")
    yield Sample("broadcasts_heard", "counter", "broadcasts heard by nodes", feed.heard)
    yield Sample("broadcasts_missed", "counter", "holes found: the log is read again", feed.missed)
    text = "not sent to who came: their bodies were gone and the database away"
    yield Sample("broadcasts_unloaded", "counter", text, feed.unloaded)
    yield Sample("broadcast_acks", "counter", "acks of broadcasts recorded", acks.confirmed)


def seat_samples(seats: DeviceSeats) -> Iterator[Sample]:
    """每个用户的设备数。"""
    yield Sample("seats", "gauge", "seats held by this node", seats.held)
    yield Sample("seats_refused", "counter", "connections over the device limit", seats.refused)


def canary_samples(canary: CanaryStatistics) -> Iterator[Sample]:
    """听力；``canary_hearing`` 为 1 的那一项是此刻的。"""
    for state in Hearing:
        now = int(state.value == canary.hearing)
        labels = {"state": state.value}
        yield Sample("canary_hearing", "gauge", "1 = current", now, labels, "process")
    yield Sample("canary_heard", "counter", "canaries heard", canary.heard)
    yield Sample("canary_missed", "counter", "canaries lost", canary.missed)
    yield Sample("canary_resets", "counter", "forced re-subscriptions", canary.resets)
    last_s = canary.last_ms / 1000
    yield Sample(
        "canary_round_trip_seconds", "gauge", "last through Redis", last_s, scope="process"
    )


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
    yield from counted("meeting_drops", "frames dropped", "reason", drops, MEETING_DROP_REASONS)
    yield from counted("meeting_closes", "closed by us", "code", closes, _CLOSES)
    yield from _refusals("meeting_", hub.refusals)
    yield from _endings("meeting_", hub.endings)


# ── REST：按路由的模板、状态的类，多久；拒绝了多少，为什么 ──────────────────────────
#
# 不认识的路径合用一个，标签不会越来越多；拒绝的每个码一个计数器，一分钟一行日志（E12）。

_CLASSES: Final = ("2xx", "4xx", "5xx")
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
#: 没有这样的路径。
UNKNOWN: Final = "unknown"
#: 从启动起就有 0 的。
CODES: Final = (
    "invalid_input",
    "unauthenticated",
    "invalid_token",
    "token_expired",
    "bad_credentials",
    "bad_key",
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


class RouteRequests:
    """一条路由的：从启动起就有 0；答的人记（``router.contract_route.count``）。"""

    def __init__(self, method: str, route: str) -> None:
        self.labels: Final = {"method": method, "route": route}
        self.statuses: Counter[str] = Counter(dict.fromkeys(_CLASSES, 0))
        self.durations = Histogram(_SECONDS)


class RestRequests:
    """一个进程一个；``unknown`` 是没有这样的路径的。"""

    def __init__(self) -> None:
        self._routes: dict[tuple[str, str], RouteRequests] = {}
        self.unknown = self.of("any", UNKNOWN)

    def of(self, method: str, route: str) -> RouteRequests:
        """同一条路由的共用一个。"""
        method = "GET" if method == "HEAD" else method
        return self._routes.setdefault((method, route), RouteRequests(method, route))

    def samples(self) -> Iterator[Sample]:
        text = "REST requests answered"
        for each in self._routes.values():
            for status, count in each.statuses.items():
                labels = {**each.labels, "status": status}
                yield Sample("http_requests", "counter", text, count, labels)

    def histograms(self) -> Iterator[HistogramSample]:
        name, text = "http_request_duration_seconds", "until the answer is ready"
        for each in self._routes.values():
            if each.durations.count:
                yield HistogramSample(name, text, each.durations, each.labels)


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

    def samples(self) -> Iterator[Sample]:
        text = "REST requests answered with an error"
        yield from counted("requests_refused", text, "code", self.counts, CODES)
