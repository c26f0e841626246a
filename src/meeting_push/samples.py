"""把各部分的统计快照译成指标；指标的名字都在这一个文件里。"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .monitoring.metrics import Sample
from .services.message_consumer import ConsumerStatistics
from .websocket.statistics import EdgeStatistics


def edge_samples(edge: EdgeStatistics) -> Iterator[Sample]:
    """网关：连接、推送、确认、丢弃、关闭。"""
    yield Sample("connections", "gauge", "authenticated connections", edge.connections)
    yield Sample("connected_users", "gauge", "users with a connection here", edge.users)
    yield Sample("sockets", "gauge", "open sockets, handshakes included", edge.sockets)
    yield Sample("connections_opened", "counter", "connections accepted", edge.connections_opened)
    yield Sample("frames_pushed", "counter", "frames written to clients", edge.frames_pushed)
    yield Sample("bytes_pushed", "counter", "bytes written to clients", edge.bytes_pushed)
    yield Sample("acks", "counter", "message acks received", edge.acks)
    yield Sample("heartbeats", "counter", "heartbeats received", edge.heartbeats)
    yield Sample("bad_frames", "counter", "refused client frames", edge.bad_frames)
    yield Sample("auth_failures", "counter", "refused handshakes", edge.auth_failures)
    yield Sample(
        "flushed_messages", "counter", "messages sent from a mailbox", edge.flushed_messages
    )
    for reason, count in edge.drops.items():
        yield Sample("drops", "counter", "frames not pushed", count, {"reason": reason})
    for code, count in edge.closes.items():
        yield Sample("closes", "counter", "connections closed by us", count, {"code": str(code)})


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
