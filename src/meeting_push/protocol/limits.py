"""边缘的全部上限：算出一次（``websocket.admission``），此后只读；毫秒与字节，热路径上不再换算。"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ArrivalLimits:
    """一个节点收多少连接、收得多快；0 个（每个地址）表示不限。"""

    per_node: int
    per_address: int
    per_s: float
    burst: int
    max_waiting: int
    failure_delay_s: float


@dataclass(frozen=True, slots=True)
class Limits:
    """``*_ms`` 为毫秒，``*_s`` 为秒；秒只用于告诉客户端或交给 asyncio 计时。"""

    heartbeat_interval_s: float
    heartbeat_timeout_s: float
    heartbeat_timeout_ms: int
    max_frame_bytes: int
    max_unacked: int
    bad_frame_limit: int
    bad_frame_window_ms: int
    outbox_max_bytes: int
    outbox_max_delay_ms: int
    handshake_timeout_s: float
    #: 关闭帧发出后等对方多久；再不走就掐断。
    close_linger_ms: int
    #: 连接已升级、Redis 却不可用时，开着 socket 等多久才以 4007 放弃。
    open_timeout_s: float
    arrivals: ArrivalLimits
    #: 第 n 次推送之后等多久没有确认才重试。
    retry_delays_ms: tuple[int, ...]

    @property
    def held_max_bytes(self) -> int:
        """补发期间暂存的实时帧；取发件箱的一半，放行时才不会立刻撑破发件箱。"""
        return self.outbox_max_bytes // 2

    @property
    def largest_read_bytes(self) -> int:
        """读到这么多为止还回答 ``frame_too_large``；再大就以 1009 断开，不为它开缓冲。"""
        return self.max_frame_bytes * 2
