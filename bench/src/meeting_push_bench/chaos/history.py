"""历史：发生过的一切，一行一个 JSON，只追加。

一个事件的序号就是它的行号；写者都在一个进程的一个事件循环里，所以次序就是观察到的因果：
POST 与 ack 在发出*之前*记下，回答与帧在到手*之后*记下。
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from ..failure import BenchError
from .final_state import FinalState
from .plan import ChaosPlan


class Event(Struct, frozen=True, kw_only=True, tag_field="event", omit_defaults=True):
    """``at``：Unix 毫秒，与产品记下的时刻可以相比（同一台机器）。"""

    at: int


class Began(Event, frozen=True, kw_only=True, tag="began"):
    plan: ChaosPlan


# ── 发送 ────────────────────────────────────────────────────────────────────


class Intent(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """一条消息本来的样子；``later``：一天以后才到期。"""

    recipients: tuple[int, ...]
    priority: int
    crc: int
    hold: bool = False
    later: bool = False


class Intended(Event, frozen=True, kw_only=True, tag="intended"):
    """第一次发出之前。各条的标题是 ``title(post, 序号)``，凭它认出没有得到回答的那些。"""

    post: int
    sender_id: int
    key: str | None
    intents: tuple[Intent, ...]


class Answered(Event, frozen=True, kw_only=True, tag="answered"):
    """一次尝试的结果；``status`` 为 0：请求发出去了，没有得到回答，结果不明。"""

    post: int
    status: int
    message_ids: tuple[str, ...] = ()


# ── 设备 ────────────────────────────────────────────────────────────────────


class Dialled(Event, frozen=True, kw_only=True, tag="dialled"):
    """开始连接；``last_seq`` 为 None：没有要求续传。"""

    connection: int
    user_id: int
    device: str
    gateway: int
    epoch: str = ""
    last_seq: int | None = None


class Opened(Event, frozen=True, kw_only=True, tag="opened"):
    """welcome。"""

    connection: int
    epoch: str
    seq: int
    resumed: bool
    pending: int


class Push(Struct, frozen=True, array_like=True):
    """一条 ``new_message``；``crc`` 是收到的正文的。"""

    seq: int
    message_id: str
    title: str
    attempt: int
    priority: int
    crc: int


class Received(Event, frozen=True, kw_only=True, tag="received"):
    """一帧。``live``：单独的 ``new_message``，否则是 ``batch``（补发、续传、合并）。"""

    connection: int
    live: bool
    pushes: tuple[Push, ...]


class Gapped(Event, frozen=True, kw_only=True, tag="gapped"):
    connection: int
    from_seq: int
    to_seq: int
    reason: str


class Resynced(Event, frozen=True, kw_only=True, tag="resynced"):
    connection: int
    reason: str
    epoch: str
    seq: int


class Acked(Event, frozen=True, kw_only=True, tag="acked"):
    connection: int
    message_ids: tuple[str, ...] = ()
    upto: int | None = None


class Closed(Event, frozen=True, kw_only=True, tag="closed"):
    """``code`` 为 None：传输断了，没有关闭帧；``ours``：是设备自己走的。"""

    connection: int
    code: int | None
    ours: bool


# ── 发给所有人的 ─────────────────────────────────────────────────────────────


class Cried(Event, frozen=True, kw_only=True, tag="cried"):
    """一条广播得到了 2xx。"""

    message_id: str


class Heard(Event, frozen=True, kw_only=True, tag="heard"):
    """一帧里的广播。"""

    connection: int
    message_ids: tuple[str, ...]


# ── 旁观 ────────────────────────────────────────────────────────────────────


class SeenState(Struct, frozen=True, array_like=True):
    user_id: int
    status: str
    delivered_at: int | None


class Observed(Event, frozen=True, kw_only=True, tag="observed"):
    """``GET /messages/{id}/delivery`` 的回答。"""

    message_id: str
    states: tuple[SeenState, ...]


class Looked(Event, frozen=True, kw_only=True, tag="looked"):
    """管理员看了一眼；``status`` 为 0：没有得到完整的回答（它死了，链路断了）。"""

    path: str
    status: int
    took_ms: int


class Settled(Event, frozen=True, kw_only=True, tag="settled"):
    """已确认，已不在信箱，随后 SQL 里已有结局：此后不该再来。"""

    user_id: int
    message_ids: tuple[str, ...]


class Unrecorded(Event, frozen=True, kw_only=True, tag="unrecorded"):
    """已不在信箱，随后 SQL 里却仍是 pending。"""

    user_id: int
    message_ids: tuple[str, ...]


# ── 故障 ────────────────────────────────────────────────────────────────────


class Faulted(Event, frozen=True, kw_only=True, tag="faulted"):
    kind: str
    target: str
    for_s: float


class Recovered(Event, frozen=True, kw_only=True, tag="recovered"):
    """``after_ms``：从原因消除（重新启动、链路放开）到 ``/readyz`` 回答 200。"""

    kind: str
    target: str
    after_ms: int


class Switched(Event, frozen=True, kw_only=True, tag="switched"):
    """Sentinel 说主换成了 ``to``。"""

    to: str


class KeptSeq(Struct, frozen=True, array_like=True):
    user_id: int
    epoch: str
    seq: int


class Kept(Event, frozen=True, kw_only=True, tag="kept"):
    """主没了、还没有换的时候，后来换上来的 ``node`` 有什么；``seqs`` 里只有那个主的人。"""

    node: str
    seqs: tuple[KeptSeq, ...]


class Stood(Event, frozen=True, kw_only=True, tag="stood"):
    """整台机器刚刚停住了这么久。"""

    for_ms: int


class Died(Event, frozen=True, kw_only=True, tag="died"):
    """不是我们杀的。``ready``：它已经就绪过；启动时 Redis 正好不在而退出，不算奇怪。"""

    target: str
    exit_code: int
    ready: bool


class Ended(Event, frozen=True, kw_only=True, tag="ended"):
    """最后一行：终局。``redriven``：对账者从 SQL 放回发件箱几条（各服务器的日志说的）。"""

    drained: bool
    redriven: int = 0
    final: FinalState


AnyEvent = (
    Began
    | Intended
    | Answered
    | Dialled
    | Opened
    | Received
    | Gapped
    | Resynced
    | Acked
    | Closed
    | Cried
    | Heard
    | Observed
    | Looked
    | Settled
    | Unrecorded
    | Faulted
    | Recovered
    | Switched
    | Kept
    | Stood
    | Died
    | Ended
)

_decoder: Final = msgspec.json.Decoder(AnyEvent)


def title(post: int, index: int) -> str:
    return f"{post}.{index}"


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class HistoryWriter:
    """``write`` 同步、缓冲；``close`` 之后文件才完整。"""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("wb")
        self._encoder = msgspec.json.Encoder()

    def write(self, event: Event) -> None:
        self._file.write(self._encoder.encode(event) + b"\n")

    def close(self) -> None:
        self._file.close()


def read_history(path: Path) -> list[AnyEvent]:
    """:raises BenchError: 读不出来，或不是一份完整的历史"""
    try:
        with path.open("rb") as lines:
            events = [_decoder.decode(line) for line in lines]
    except (OSError, msgspec.DecodeError) as error:
        raise BenchError(f"can not read the history {path}: {error}") from None
    if not events or not isinstance(events[-1], Ended):
        raise BenchError(f"the history {path} is not complete")
    return events


def final_of(events: Sequence[AnyEvent]) -> Ended:
    last = events[-1]
    assert isinstance(last, Ended), "read_history() checks it"
    return last
