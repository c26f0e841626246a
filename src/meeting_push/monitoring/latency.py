"""两段延迟：接受 → 推送，推送 → 确认。抽样量：每毫秒至多一条，热路径上几乎没有代价。

延迟直方图：对数分桶（同 HdrHistogram），相对误差 ≤ 1 %，可合并，可过管道。

每个二的幂分 64 格：格宽 / 格底 ≤ 1/64，取中点，误差 ≤ 1/128。128 以下逐一精确。
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import msgspec

from ..contracts import AckSink
from ..model import Ack, AckOutcome
from ..node.flight_recorder import OFF, FlightRecorder
from ..protocol.envelope import peek_attempt

_CELL_BITS: Final = 6
_EXACT_BITS: Final = _CELL_BITS + 1


class LatencyHistogram(msgspec.Struct):
    """``counts``：格号 → 次数。值是非负整数；单位由用它的人定（服务器毫秒，压测微秒）。"""

    counts: dict[int, int] = {}

    @property
    def count(self) -> int:
        return sum(self.counts.values())

    def record(self, value: int) -> None:
        """:raises ValueError: 负值（时钟倒退或程序错）"""
        if value < 0:
            raise ValueError(f"a latency can not be negative: {value}")
        cell = _cell(value)
        self.counts[cell] = self.counts.get(cell, 0) + 1

    def merge(self, other: LatencyHistogram) -> LatencyHistogram:
        """两者之和；不改动两者。"""
        total = dict(self.counts)
        for cell, count in other.counts.items():
            total[cell] = total.get(cell, 0) + count
        return LatencyHistogram(total)

    def since(self, earlier: LatencyHistogram) -> LatencyHistogram:
        """``earlier``（自己从前的样子）之后新增的。"""
        before = earlier.counts
        added = {cell: count - before.get(cell, 0) for cell, count in self.counts.items()}
        return LatencyHistogram({cell: count for cell, count in added.items() if count})

    def copy(self) -> LatencyHistogram:
        return LatencyHistogram(dict(self.counts))

    def total(self) -> float:
        """全部值之和，误差同百分位。"""
        return sum(count * _middle(cell) for cell, count in self.counts.items())

    def at_most(self, bounds: Sequence[int]) -> list[int]:
        """各界限以内（含）的次数；界限升序。"""
        cells = sorted(self.counts.items())
        found, seen, at = [], 0, 0
        for bound in bounds:
            while at < len(cells) and _middle(cells[at][0]) <= bound:
                seen += cells[at][1]
                at += 1
            found.append(seen)
        return found

    def percentile(self, percent: float) -> float:
        """至少 ``percent`` % 的值不大于它（0 < percent ≤ 100）。

        :raises ValueError: 一个值都没有
        """
        rank = max(1, math.ceil(self.count * percent / 100))
        seen = 0
        for cell in sorted(self.counts):
            seen += self.counts[cell]
            if seen >= rank:
                return _middle(cell)
        raise ValueError("an empty histogram has no percentiles")


def _cell(value: int) -> int:
    shift = max(0, value.bit_length() - _EXACT_BITS)
    return (shift << _CELL_BITS) + (value >> shift)


def _middle(cell: int) -> float:
    shift = max(0, (cell >> _CELL_BITS) - 1)
    low = (cell - (shift << _CELL_BITS)) << shift
    return low + ((1 << shift) - 1) / 2


#: 接受之后这么久才推的（预约的、积压的）另计：掺进来百分位就没有意义了。
LATE_MS: Final = 300_000

#: 推了这么久之内确认的算及时。
IN_TIME_MS: Final = 30_000

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

    def __init__(self, sink: AckSink, recorder: FlightRecorder = OFF) -> None:
        self.histogram = LatencyHistogram()
        #: 推了 ``IN_TIME_MS`` 之内的确认；不是抽样。
        self.in_time = 0
        self._users: set[int] = set()
        self._sink = sink
        self._record = sink.record
        self._note = recorder.acked.append
        self._measured_at = 0

    def record(self, user_id: int, acks: Sequence[Ack]) -> None:
        newest = acks[-1]
        if newest.acked_at != self._measured_at:
            self._measured_at = newest.acked_at
            self.histogram.record(max(0, newest.acked_at - newest.sent_at))
        self._users.add(user_id)
        for ack in acks:
            self._note((ack.acked_at, ack.message_id, user_id, ack.sent_at))
            if ack.acked_at - ack.sent_at <= IN_TIME_MS:
                self.in_time += 1
        self._record(user_id, acks)

    def take_users(self) -> set[int]:
        """上次取走之后确认过什么的人。"""
        users, self._users = self._users, set()
        return users

    async def confirm(self, user_id: int, message_ids: Sequence[str], now: int) -> AckOutcome:
        return await self._sink.confirm(user_id, message_ids, now)
