"""父进程与负载进程之间的话：一个命令，一个回答（途中可有若干 ``Progress``）。"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from meeting_push.monitoring.latency import LatencyHistogram

from .target import Target

#: ``count``：只数 ``new_message``（扇出）；``ack``：逐条确认并记延迟（耐久路径）。
DeviceKind = Literal["count", "ack"]


class Wire(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """管道里的一句话。"""


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


class Publish(Wire, frozen=True, kw_only=True):
    """向各用户的频道轮流发布，在途不超过 ``window``；回答 ``Published``。"""

    target: Target
    user_ids: list[int]
    devices: int
    publishes: int
    window: int
    frame_bytes: int


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


Order = Connect | Disconnect | Publish | SendBurst | SendPaced | PublishPaced


# ── 回答 ────────────────────────────────────────────────────────────────────


class Progress(Wire, frozen=True, kw_only=True):
    done: int
    total: int


class Failed(Wire, frozen=True, kw_only=True):
    reason: str


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


Answer = Progress | Failed | Connected | Disconnected | Published | Sent | Paced

_encoder: Final = msgspec.msgpack.Encoder()
_order_decoder: Final = msgspec.msgpack.Decoder(Order)
_answer_decoder: Final = msgspec.msgpack.Decoder(Answer)


def encode(message: msgspec.Struct) -> bytes:
    return _encoder.encode(message)


def decode_order(data: bytes) -> Order:
    order: Order = _order_decoder.decode(data)
    return order


def decode_answer(data: bytes) -> Answer:
    answer: Answer = _answer_decoder.decode(data)
    return answer
