"""什么占着 Redis 的内存：走一遍键空间，数各种键，各量一些。

从不挡住 Redis：一页一页地 ``SCAN``，页与页之间歇一歇；``MEMORY USAGE`` 只看一个键里的几个元素。
走的键、量的键都有上限。
"""

from __future__ import annotations

import asyncio
import heapq
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from .address import RedisAddress
from .cluster import lean_connection
from .keys import Keys
from .lean import LeanConnection

#: 一页多少个键；页与页之间歇这么久。
PAGE: Final = 500
PAUSE_S: Final = 0.002
#: 每种键先量这么多个，此后每这么多个量一个，一种至多这么多个。
FIRST: Final = 50
ONE_IN: Final = 100
MOST: Final = 2_000
#: 列出这么多个最大的信箱、没有期限的键。
LISTED: Final = 10
#: 一个人一份的。
PER_USER: Final = frozenset(
    {
        *("offline_messages", "message_log", "user_seq", "expired_messages", "evicted_messages"),
        *("mailbox_senders", "broadcast_cursor", "online_users", "user_connections_count"),
        "user_slots",
    }
)
PER_MESSAGE: Final = frozenset({"message_body", "message_delivery_status"})
#: 本来就没有期限的：队列、记号。
WITHOUT_TTL: Final = frozenset(
    {
        *("message_delivery_queue", "priority_message_queue", "bulk_message_queue"),
        *("delayed_message_queue", "delayed_bulk_queue", "dead_letter_queue"),
        *("cancelled_messages", "delivery_generation"),
    }
)
_KIND: Final = re.compile(r"\{?([a-z_]+)")
_MAILBOX: Final = "offline_messages"


@dataclass(slots=True)
class KindOfKey:
    """要量的 ``asked`` 个里量到 ``measured`` 个，共 ``bytes``；``without_ttl`` 个没有期限。"""

    keys: int = 0
    asked: int = 0
    measured: int = 0
    bytes: int = 0
    without_ttl: int = 0

    @property
    def mean_bytes(self) -> float:
        return self.bytes / self.measured if self.measured else 0.0

    @property
    def estimated_bytes(self) -> int:
        return round(self.mean_bytes * self.keys)

    def wants_sample(self) -> bool:
        """下一个要不要量；问过就算数了一个。"""
        self.keys += 1
        wanted = self.asked < MOST and (self.keys <= FIRST or self.keys % ONE_IN == 0)
        self.asked += wanted
        return wanted


@dataclass(slots=True)
class MemoryReport:
    """``walked`` 个我们的键里的；``total``：Redis 里一共几个；``whole`` 为假：还有没走到的。"""

    total: int
    used_bytes: int
    max_bytes: int
    walked: int = 0
    whole: bool = True
    kinds: dict[str, KindOfKey] = field(default_factory=dict)
    #: 未确认的条数与键，最大的在前。
    largest_mailboxes: list[tuple[int, str]] = field(default_factory=list)
    #: 该有期限而没有的，其中几个的名字。
    eternal: list[str] = field(default_factory=list)

    @property
    def people(self) -> int:
        """Redis 知道的人：有过信箱的。"""
        return self.kinds["user_seq"].keys if "user_seq" in self.kinds else 0

    @property
    def bytes_per_person(self) -> float:
        """一个人平均：他的各种键。"""
        return self._sum(PER_USER) / self.people if self.people else 0.0

    @property
    def bytes_per_message(self) -> float:
        """一条还留着的消息平均：正文与状态。"""
        bodies = self.kinds.get("message_body")
        return self._sum(PER_MESSAGE) / bodies.keys if bodies else 0.0

    def _sum(self, names: frozenset[str]) -> int:
        return sum(kind.estimated_bytes for name, kind in self.kinds.items() if name in names)


def kind_of(key: str, prefix: str) -> str:
    """``p:user_seq:{5}`` → ``user_seq``；``{p:broadcast_log}:ids`` → 同它的日志。"""
    rest = key.removeprefix("{").removeprefix(prefix)
    found = _KIND.match(rest)
    return found[1] if found else "other"


async def memory_report_at(url: str, keys: Keys, most_keys: int, timeout_s: float) -> MemoryReport:
    """同 ``memory_report``，自己连上。"""
    lean = lean_connection(RedisAddress.parse(url), timeout_s=timeout_s, name="meeting-push-report")
    await lean.connect()
    try:
        return await memory_report(lean, keys, most_keys)
    finally:
        await lean.close()


async def memory_report(lean: LeanConnection, keys: Keys, most_keys: int) -> MemoryReport:
    """走至多 ``most_keys`` 个键。

    :raises RedisUnavailableError: 连不上
    :raises RedisCommandError: 这个用户不许 ``SCAN``、``MEMORY``
    """
    report = await _begun(lean)
    walk = _Walk(lean, keys.prefix, report)
    cursor = b"0"
    for _ in range(max(1, -(-most_keys // PAGE))):
        # 日志的附属键以花括号开头，所以前缀之前可以有一个
        cursor, found = await lean.execute("SCAN", cursor, "COUNT", PAGE)
        await walk.take([key for raw in found if (key := _ours(raw, keys.prefix)) is not None])
        if cursor == b"0":
            break
        await asyncio.sleep(PAUSE_S)
    report.whole = cursor == b"0"
    report.largest_mailboxes = heapq.nlargest(LISTED, walk.mailboxes)
    return report


def _ours(raw: bytes, prefix: str) -> str | None:
    key = raw.decode("utf-8", "backslashreplace")
    return key if key.removeprefix("{").startswith(prefix) else None


async def _begun(lean: LeanConnection) -> MemoryReport:
    """各主加起来的。"""
    totals, infos = await lean.everywhere("DBSIZE"), await lean.everywhere("INFO", "memory")
    lines = [
        dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
        for info in infos
    ]
    return MemoryReport(
        sum(totals),
        sum(int(each["used_memory"]) for each in lines),
        sum(int(each.get("maxmemory", 0)) for each in lines),
    )


class _Walk:
    def __init__(self, lean: LeanConnection, prefix: str, report: MemoryReport) -> None:
        self._lean = lean
        self._prefix = prefix
        self._report = report
        self.mailboxes: list[tuple[int, str]] = []

    async def take(self, names: Sequence[str]) -> None:
        """一页。"""
        samples, boxes = [], []
        for name in names:
            kind = kind_of(name, self._prefix)
            if self._report.kinds.setdefault(kind, KindOfKey()).wants_sample():
                samples.append((kind, name))
            if kind == _MAILBOX:
                boxes.append(name)
        self._report.walked += len(names)
        await self._measure(samples)
        await self._count(boxes)

    async def _measure(self, samples: Sequence[tuple[str, str]]) -> None:
        if not samples:
            return
        asked = [
            command
            for _, name in samples
            for command in (("MEMORY", "USAGE", name), ("PTTL", name))
        ]
        answers = await self._lean.execute_many(asked)
        for (kind, name), size, ttl in zip(samples, answers[::2], answers[1::2], strict=True):
            if size is None:  # 刚没有了
                continue
            seen = self._report.kinds[kind]
            seen.measured += 1
            seen.bytes += size
            if ttl == -1:
                seen.without_ttl += 1
                self._note_eternal(kind, name)

    def _note_eternal(self, kind: str, name: str) -> None:
        if kind not in WITHOUT_TTL and len(self._report.eternal) < LISTED:
            self._report.eternal.append(name)

    async def _count(self, boxes: Sequence[str]) -> None:
        if not boxes:
            return
        sizes = await self._lean.execute_many([("ZCARD", name) for name in boxes], tolerant=True)
        found = [(n, name) for n, name in zip(sizes, boxes, strict=True) if isinstance(n, int)]
        self.mailboxes = heapq.nlargest(LISTED, [*self.mailboxes, *found])
