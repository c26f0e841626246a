"""日志里每一种事件说了几次，全体的：近的按分钟，远的按十分钟、按小时，一格一个哈希。"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final

from ..logs import EVENTS, OTHER, Said
from .activity import DAY_MS, HOUR_MS, MINUTE_MS, Grain
from .keys import Keys
from .lean import LeanConnection
from .link import Argument

#: 细的在前；留着的比看得到的（``REACH_MS``）多几格。
GRAINS: Final = (
    Grain("m", MINUTE_MS, 3 * HOUR_MS),
    Grain("t", 10 * MINUTE_MS, 26 * HOUR_MS),
    Grain("h", HOUR_MS, 8 * DAY_MS),
)
#: 各种粗细看得到多远。
REACH_MS: Final = (2 * HOUR_MS, DAY_MS, 7 * DAY_MS)


class LogCountStore:
    """都走精简连接；错误是 ``RedisUnavailableError``、``RedisCommandError``。"""

    def __init__(self, lean: LeanConnection, keys: Keys) -> None:
        self._lean = lean
        self._keys = keys

    async def note(self, counts: Mapping[Said, int], at: int) -> None:
        """``at`` 那时又说了这么多次。不幂等：断在半路的，可能多数一遍。"""
        commands: list[tuple[Argument, ...]] = []
        for grain in GRAINS:
            key = self._slot(grain, at // grain.width_ms)
            commands += [("HINCRBY", key, " ".join(said), n) for said, n in counts.items()]
            commands.append(("PEXPIRE", key, grain.keep_ms, "NX"))
        await self._lean.execute_many(commands)

    async def read(self, grain: Grain, first: int, slots: int) -> list[Counter[Said]]:
        """从第 ``first`` 格起的 ``slots`` 格。"""
        commands = [("HGETALL", self._slot(grain, first + number)) for number in range(slots)]
        return [_counts(reply) for reply in await self._lean.execute_many(commands)]

    def _slot(self, grain: Grain, number: int) -> str:
        return self._keys.log_counts(f"{grain.letter}{number}")


def _counts(reply: list[bytes]) -> Counter[Said]:
    """别的版本的节点说的、别人写的，词表里没有：合成一个。"""
    counts = Counter[Said]()
    for name, count in zip(reply[::2], reply[1::2], strict=True):
        event, level, code = (*name.decode("utf-8", "replace").split(" "), "", "")[:3]
        counts[Said(event if event in EVENTS else OTHER, level, code)] += int(count)
    return counts
