"""给负载进程的命令，与它们的回答。"""

from __future__ import annotations

from typing import Literal

from meeting_push.monitoring.latency import LatencyHistogram

from .load_process import Wire
from .target import Target

#: ``count``：只数 ``new_message``（扇出）；``ack``：逐条确认并记延迟（耐久路径）。
DeviceKind = Literal["count", "ack"]


# ── 命令 ────────────────────────────────────────────────────────────────────


class Connect(Wire, frozen=True, kw_only=True):
    """每个用户 ``devices`` 条连接，全部收到 welcome 才回答 ``Connected``。"""

    target: Target
    user_ids: list[int]
    devices: int
    kind: DeviceKind
    frame_bytes: int
    concurrency: int
    heartbeat_interval_s: float


class Disconnect(Wire, frozen=True, kw_only=True):
    """断开全部；回答 ``Disconnected``。"""


class Saturate(Wire, frozen=True, kw_only=True):
    """向各频道轮流发布，在途至多 ``window`` 帧，到一帧补一帧；回答 ``Published``。

    每次发布有 ``reach`` 条连接收到；``payloads`` 轮流配给 ``channels``。
    """

    target: Target
    channels: list[str]
    payloads: tuple[bytes, ...]
    reach: int
    publishes: int
    window: int


class SendBurst(Wire, frozen=True, kw_only=True):
    """``concurrency`` 条长连接各自一条接一条地 POST；回答 ``Sent``。"""

    target: Target
    token: str
    recipient_ids: list[int]
    concurrency: int
    duration_s: float


class SendPaced(Wire, frozen=True, kw_only=True):
    """开环：按固定节拍 POST，不等前一条；回答 ``Paced``。"""

    target: Target
    token: str
    recipient_ids: list[int]
    rate_per_s: float
    duration_s: float


class PublishPaced(Wire, frozen=True, kw_only=True):
    """开环：按固定节拍把瞬时帧发布到各用户的频道；回答 ``Paced``。"""

    target: Target
    user_ids: list[int]
    rate_per_s: float
    duration_s: float


Order = Connect | Disconnect | Saturate | SendBurst | SendPaced | PublishPaced


# ── 回答 ────────────────────────────────────────────────────────────────────


class Connected(Wire, frozen=True, kw_only=True):
    elapsed_s: float


class Disconnected(Wire, frozen=True, kw_only=True):
    """``lost``：在我们断开之前就被服务器关掉的。"""

    lost: int


class Published(Wire, frozen=True, kw_only=True):
    """从第一次发布到最后一帧到达。"""

    arrived: int
    elapsed_s: float


class Sent(Wire, frozen=True, kw_only=True):
    """``latency``：POST 到 202，微秒。"""

    accepted: int
    elapsed_s: float
    latency: LatencyHistogram


class Paced(Wire, frozen=True, kw_only=True):
    """``latency``：从*预定*的发送时刻到帧到达收件人的套接字，微秒（没有 coordinated omission）。"""

    accepted: int
    latency: LatencyHistogram
