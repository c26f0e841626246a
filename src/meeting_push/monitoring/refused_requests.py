"""拒绝了多少 REST 请求，为什么：每个码一个计数器，一分钟一行日志（E12）。"""

from __future__ import annotations

from collections import Counter
from typing import Final

from ..logs import RepeatedWarning

#: 从启动起就有 0 的。
CODES: Final = (
    "invalid_input",
    "unauthenticated",
    "invalid_token",
    "token_expired",
    "bad_credentials",
    "forbidden",
    "not_found",
    "payload_too_large",
    "rate_limited",
    "queue_full",
    "redis_unavailable",
    "database_unavailable",
    "outcome_unknown",
)
#: 码是我们定的，本就不多；意外之外的合用一个。
_MAX_CODES: Final = 100


class RefusedRequests:
    """一个进程一个；``counts`` 只增。"""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._warnings: dict[str, RepeatedWarning] = {}

    def note(self, status: int, code: str) -> None:
        if code not in self._warnings:
            if len(self._warnings) >= _MAX_CODES:
                code = "others"
            # 429 与 5xx 是运维的事；其余多半是客户端自己的
            level = "WARNING" if status == 429 or status >= 500 else "INFO"
            context = {"code": code, "status": status}
            self._warnings.setdefault(
                code, RepeatedWarning("requests_refused", level=level, context=context)
            )
        self.counts[code] += 1
        self._warnings[code].say()
