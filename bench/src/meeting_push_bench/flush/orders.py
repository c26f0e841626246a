"""父进程与持有归来者的进程之间的话；管道与信封同 ``meeting_push_bench/orders.py``。"""

from __future__ import annotations

from typing import Final

import msgspec

from meeting_push.monitoring.latency import LatencyHistogram

from ..orders import Failed, Progress, Wire
from ..target import Target


class Return(Wire, frozen=True, kw_only=True):
    """这些人同时拨号，各等 ``expected`` 条；都齐了才回答 ``Returned``，连接留着。"""

    target: Target
    user_ids: list[int]
    expected: int
    heartbeat_interval_s: float


class GoAway(Wire, frozen=True, kw_only=True):
    """断开全部；回答 ``Gone``。"""


class Returned(Wire, frozen=True, kw_only=True):
    """``whole``：一个人从拨号到最后一条，微秒；``frames``：装着它们的 WebSocket 帧数。

    ``refused``：拨了没有进来、退避后再拨的次数；``repeated``：同一条来了两次；``disordered``：seq
    没有递增（这里都是同一优先级）。
    """

    elapsed_s: float
    messages: int
    frames: int
    bytes: int
    refused: int
    repeated: int
    disordered: int
    whole: LatencyHistogram
    welcome: LatencyHistogram


class Gone(Wire, frozen=True, kw_only=True):
    """``lost``：在我们断开之前就被服务器关掉的。"""

    lost: int


FlushOrder = Return | GoAway
FlushAnswer = Progress | Failed | Returned | Gone

_order_decoder: Final = msgspec.msgpack.Decoder(FlushOrder)
_answer_decoder: Final = msgspec.msgpack.Decoder(FlushAnswer)


def decode_flush_order(data: bytes) -> FlushOrder:
    order: FlushOrder = _order_decoder.decode(data)
    return order


def decode_flush_answer(data: bytes) -> FlushAnswer:
    answer: FlushAnswer = _answer_decoder.decode(data)
    return answer
