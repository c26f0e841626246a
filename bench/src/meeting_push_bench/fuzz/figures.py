"""一次 fuzz 的结果：发现，与证人在每一段攻击里的延迟。"""

from __future__ import annotations

import msgspec

from ..latency_figures import LatencyFigures


class Ordeal(msgspec.Struct, frozen=True, kw_only=True):
    """一段攻击；延迟是证人的消息从预定的发送时刻到帧到达；``peak_rss_bytes`` 是服务器的。"""

    name: str
    seconds: float
    witness: LatencyFigures
    peak_rss_bytes: int


class EdgeFuzz(msgspec.Struct, frozen=True, kw_only=True):
    """``findings`` 为空即通过。"""

    edge: str
    findings: list[str]
    ordeals: list[Ordeal]
    rss_before_bytes: int
    rss_after_bytes: int
    metrics_before: dict[str, float]
    metrics_after: dict[str, float]
