"""给负载进程的命令，与它们的回答。"""

from __future__ import annotations

from typing import Literal

from meeting_push.monitoring.latency import LatencyHistogram

from ..load_process import Wire
from ..target import Target

#: 服务器说什么话；sse 是没有 WebSocket 时的那条路，socketio 只为与它比较。
Dialect = Literal["meeting-push", "sse", "socketio"]


# ── 命令：持有连接的进程 ────────────────────────────────────────────────────


class Join(Wire, frozen=True, kw_only=True):
    """每个用户一条连接；没连上的计数，不中断。``first_index`` 决定源地址。

    每 ``measure_every`` 条有一条记延迟并确认，其余只数恰为 ``frame_bytes`` 的帧；0 是都只数。
    ``heartbeat_interval_s`` 为 0 不心跳。``dialect`` 为 socketio、sse 的只数事件。
    """

    target: Target
    user_ids: list[int]
    first_index: int
    concurrency: int
    heartbeat_interval_s: float
    dialect: Dialect = "meeting-push"
    measure_every: int = 1
    frame_bytes: int = 0
    retries: int = 0


class Cut(Wire, frozen=True, kw_only=True):
    """同时掐断全部连接，不道别；回答 ``Left``。"""


class Leave(Wire, frozen=True, kw_only=True):
    """从容地断开全部；回答 ``Left``。"""


class Look(Wire, frozen=True, kw_only=True):
    """上次看之后的变化；回答 ``Seen``。

    ``afresh``：一段测量由此开始，之前发出的从此不算：它可能因重连而再来一次（至少一次）。
    """

    afresh: bool = False


# ── 命令：施加负载的进程 ────────────────────────────────────────────────────


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


class PublishSteady(Wire, frozen=True, kw_only=True):
    """开环：按节拍向 ``channels`` 里随机的一个发布瞬时帧；回答 ``Steady``。"""

    target: Target
    channels: list[str]
    rate_per_s: float
    duration_s: float
    frame_bytes: int


class Post(Wire, frozen=True, kw_only=True):
    """REST 发送，收件人随机；回答 ``Posted``。

    ``rate_per_s`` 是收件人每秒（开环）；None 是 ``connections`` 条连接各自一条接一条（闭环）。
    """

    target: Target
    token: str
    recipient_ids: list[int]
    recipients_per_message: int
    messages_per_request: int
    duration_s: float
    connections: int
    rate_per_s: float | None = None


# ── 回答 ────────────────────────────────────────────────────────────────────


class Joined(Wire, frozen=True, kw_only=True):
    """``failures``：原因 → 没连上的次数（重试的也算）；``latency``：从开始连到 welcome，微秒。"""

    connected: int
    failures: dict[str, int]
    latency: LatencyHistogram


class Left(Wire, frozen=True, kw_only=True):
    """``lost``：``sockets`` 里在我们断开之前就被服务器关掉的。"""

    sockets: int
    lost: int


class Seen(Wire, frozen=True, kw_only=True):
    """``sockets`` 此刻的；``received`` 累计的；``latency``、``closes`` 是上次看之后新增的。"""

    sockets: int
    received: int
    latency: LatencyHistogram
    closes: dict[str, int]


class Published(Wire, frozen=True, kw_only=True):
    """从第一次发布到最后一帧到达。"""

    arrived: int
    elapsed_s: float


class Steady(Wire, frozen=True, kw_only=True):
    """``unheard``：没有一个订阅者的发布；``late_ms``：发布者自己最晚比预定晚多少。"""

    sent: int
    unheard: int
    late_ms: float


class Posted(Wire, frozen=True, kw_only=True):
    """``recipients``：202 里的收件人数；``answers``：状态码（或 no_answer）→ 次数。"""

    recipients: int
    message_ids: list[str]
    answers: dict[str, int]
    latency: LatencyHistogram
    elapsed_s: float


LoadOrder = Join | Cut | Leave | Look | PublishSteady | Saturate | Post
