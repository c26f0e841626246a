"""由设置算出边缘的上限：秒变毫秒，只算一次。"""

from __future__ import annotations

from ..protocol.limits import ArrivalLimits, Limits
from ..settings import Settings


def limits_of(settings: Settings) -> Limits:
    return Limits(
        heartbeat_interval_s=settings.heartbeat_interval_s,
        heartbeat_timeout_s=settings.heartbeat_timeout_s,
        heartbeat_timeout_ms=int(settings.heartbeat_timeout_s * 1000),
        max_frame_bytes=settings.max_frame_bytes,
        max_unacked=settings.max_unacked,
        bad_frame_limit=settings.bad_frame_limit,
        bad_frame_window_ms=int(settings.bad_frame_window_s * 1000),
        outbox_max_bytes=settings.outbox_max_bytes,
        outbox_max_delay_ms=int(settings.outbox_max_delay_s * 1000),
        handshake_timeout_s=settings.handshake_timeout_s,
        close_linger_ms=int(settings.handshake_timeout_s * 1000),
        open_timeout_s=settings.redis_timeout_s * 2,
        arrivals=_arrivals(settings),
        retry_delays_ms=tuple(int(delay * 1000) for delay in settings.retry_delays_s),
    )


def _arrivals(settings: Settings) -> ArrivalLimits:
    return ArrivalLimits(
        per_node=settings.max_connections_per_node,
        per_address=settings.max_connections_per_address,
        per_s=settings.connects_per_s,
        burst=settings.connects_burst,
        max_waiting=int(settings.connects_per_s * settings.connect_wait_s),
        failure_delay_s=settings.auth_failure_delay_s,
    )
