"""陌生人在 HTTP 的门口得到的耐心；说明见 ``docs/security.md``。"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..settings import Settings

#: 没有任何进展的字节：块扩展、拖尾的名字、请求之间的空行。
MAX_QUIET_BYTES: Final = 16 * 1024
#: 一条连接上排着没有回答的请求；再多的不解析（问了就走的也要花解析的 CPU），答完这些就关。
MAX_PIPELINED: Final = 4
#: 答完之后还听多久、多少，好让回答先到。
LINGER_S: Final = 2.0
MAX_DISCARDED: Final = 16 * 1024 * 1024
DISCARDED_AT_ONCE: Final = 64 * 1024
DISCARD_PAUSE_S: Final = 0.03
#: 描述符快用完时，请求头要在这么久里说完。
CROWDED_HEAD_S: Final = 1.0
#: 请求体、应答：每半个期限至少走这么多，否则算停住了。
MIN_BODY_PROGRESS: Final = 1024
MIN_ANSWER_PROGRESS: Final = 16 * 1024
PROBES: Final = frozenset({b"/healthz", b"/readyz"})


@dataclass(frozen=True, slots=True)
class Patience:
    """秒。``body_s`` 是收完的期限：8 MB 在 2 Mbit/s 的线路上要半分钟。"""

    head_s: float = 5.0
    body_idle_s: float = 5.0
    body_s: float = 60.0
    answer_stall_s: float = 5.0

    @classmethod
    def of(cls, settings: Settings) -> Patience:
        waiting_s = settings.handshake_timeout_s
        return cls(waiting_s, waiting_s, answer_stall_s=settings.outbox_max_delay_s)
