"""一个分区的队列用到的键；同一分区的键在一个槽里，一段 Lua 可以一起改。"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from .keys import Keys


@dataclass(frozen=True, slots=True)
class QueueKeys:
    """只有一个分区时是 contract 里的名字；多于一个时各带 hash tag ``{q0}``、``{q1}`` …"""

    delivery: str
    priority: str
    bulk: str
    delayed: str
    delayed_bulk: str
    dead_letter: str

    @property
    def streams(self) -> tuple[str, str, str]:
        """消费者读的几条，先读的在前。"""
        return self.priority, self.delivery, self.bulk

    @classmethod
    def of(cls, keys: Keys, partitions: int) -> tuple[QueueKeys, ...]:
        tags = [""] if partitions == 1 else [f":{{q{number}}}" for number in range(partitions)]
        return tuple(
            cls(
                delivery=keys.delivery_queue + tag,
                priority=keys.priority_queue + tag,
                bulk=keys.bulk_queue + tag,
                delayed=keys.delayed_queue + tag,
                delayed_bulk=keys.delayed_bulk_queue + tag,
                dead_letter=keys.dead_letter_queue + tag,
            )
            for tag in tags
        )


def partition_of(message_id: str, partitions: int) -> int:
    """一条消息的全部条目落在同一分区：去重与撤回只看一处。"""
    return zlib.crc32(message_id.encode()) % partitions if partitions > 1 else 0


def known_key(stream: str) -> str:
    """哈希：条目摘要 → 它在流里的 id；去重用，与流一样大。"""
    return f"{stream}:known"


def errors_key(stream: str) -> str:
    """哈希：流里的 id → 处理它时最后一次意外；只有出过错的才有。"""
    return f"{stream}:errors"
