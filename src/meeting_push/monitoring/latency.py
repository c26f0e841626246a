"""两段延迟：接受 → 推送，推送 → 确认。抽样量：每毫秒至多一条，热路径上几乎没有代价。"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ..contracts import AckSink
from ..model import Ack, AckOutcome
from ..protocol.frames import peek_attempt
from .histogram import LatencyHistogram

#: 接受之后这么久才推的（预约的、积压的）另计：掺进来百分位就没有意义了。
LATE_MS: Final = 300_000

_CROCKFORD: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_BASE32: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUV"
_TO_BASE32: Final = str.maketrans(_CROCKFORD, _BASE32)


def accepted_ms(message_id: str) -> int | None:
    """ULID 的前 10 个字符就是接受的时刻；不是 ULID 则 None。"""
    try:
        return int(message_id[:10].translate(_TO_BASE32), 32)
    except ValueError:
        return None


class PushLatency:
    """实现 ``contracts.PushObserver``；重推的（attempt > 0）不算。"""

    def __init__(self) -> None:
        self.histogram = LatencyHistogram()
        self.late = 0

    def __call__(self, payload: bytes, key: tuple[int, str] | None, now: int) -> None:
        if key is None or peek_attempt(payload):
            return
        accepted_at = accepted_ms(key[1])
        if accepted_at is None:
            return
        waited_ms = max(0, now - accepted_at)  # 接受的机器时钟可能快一点
        if waited_ms > LATE_MS:
            self.late += 1
        else:
            self.histogram.record(waited_ms)


class AckLatency:
    """包着真正的 ``AckSink``：量一量推送到确认，别的原样转交。"""

    def __init__(self, sink: AckSink) -> None:
        self.histogram = LatencyHistogram()
        self._sink = sink
        self._record = sink.record
        self._measured_at = 0

    def record(self, user_id: int, acks: Sequence[Ack]) -> None:
        newest = acks[-1]
        if newest.acked_at != self._measured_at:
            self._measured_at = newest.acked_at
            self.histogram.record(max(0, newest.acked_at - newest.sent_at))
        self._record(user_id, acks)

    async def confirm(self, user_id: int, message_ids: Sequence[str], now: int) -> AckOutcome:
        return await self._sink.confirm(user_id, message_ids, now)
