"""按时间的格子，一格一个键，到时自己没有：来过的用户，每小时的收发，日志的事件。

都走精简连接；错误是 ``RedisUnavailableError``、``RedisCommandError``。
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from ..logs import EVENTS, OTHER, Said
from .keys import Keys
from .lean import LeanConnection
from .link import Argument

MINUTE_MS: Final = 60_000
HOUR_MS: Final = 60 * MINUTE_MS
DAY_MS: Final = 24 * HOUR_MS
#: 一条命令里至多这么多人：约 0.2 ms，再大就推迟别人的命令。
_CHUNK: Final = 500


class Grain(NamedTuple):
    """一种粗细的格子：键里的字母、一格多长、留多久。"""

    letter: str
    width_ms: int
    keep_ms: int


USER_GRAINS: Final = (
    Grain("m", MINUTE_MS, 10 * MINUTE_MS),
    Grain("f", 5 * MINUTE_MS, 2 * HOUR_MS),
    Grain("h", HOUR_MS, 26 * HOUR_MS),
    Grain("d", DAY_MS, 32 * DAY_MS),
)
#: 细的在前；留着的比看得到的（``REACH_MS``）多几格。
LOG_GRAINS: Final = (
    Grain("m", MINUTE_MS, 3 * HOUR_MS),
    Grain("t", 10 * MINUTE_MS, 26 * HOUR_MS),
    Grain("h", HOUR_MS, 8 * DAY_MS),
)
#: 各种粗细看得到多远。
REACH_MS: Final = (2 * HOUR_MS, DAY_MS, 7 * DAY_MS)


class Window(NamedTuple):
    """此刻的一格连同它前面的 ``slots`` 格。"""

    name: str
    grain: Grain
    slots: int


WINDOWS: Final = (
    Window("5m", USER_GRAINS[0], 5),
    Window("1h", USER_GRAINS[1], 12),
    Window("1d", USER_GRAINS[2], 24),
    Window("7d", USER_GRAINS[3], 7),
    Window("30d", USER_GRAINS[3], 30),
)


@dataclass(frozen=True, slots=True)
class HourTraffic:
    """``hour`` 是这一小时开始的毫秒。"""

    hour: int
    sent: int
    received: int


class ActivityStore:
    """用户活跃度：多少人来过（HyperLogLog，误差约 0.8 %），每小时发了多少、收到多少。

    格子都在一个槽里（``{all}``）：数一个窗口就是把最近的几格并起来，所以窗口长出不满一格的零头。
    """

    def __init__(self, lean: LeanConnection, keys: Keys) -> None:
        self._lean = lean
        self._keys = keys

    async def note_users(self, users: Sequence[int], grains: Sequence[Grain], now: int) -> None:
        """这些人此刻来过。幂等。"""
        for start in range(0, len(users), _CHUNK):
            chunk = users[start : start + _CHUNK]
            slots = [(self._slot(grain, now // grain.width_ms), grain) for grain in grains]
            commands: list[tuple[Argument, ...]] = []
            for key, grain in slots:
                commands += [("PFADD", key, *chunk), ("PEXPIRE", key, grain.keep_ms, "NX")]
            await self._lean.execute_many(commands)

    async def note_traffic(self, sent: int, received: int, now: int) -> None:
        key, hour = self._keys.traffic(str(now // DAY_MS)), now // HOUR_MS
        await self._lean.execute_many(
            [
                ("HINCRBY", key, f"{hour}:sent", sent),
                ("HINCRBY", key, f"{hour}:received", received),
                ("PEXPIRE", key, 32 * DAY_MS, "NX"),
            ]
        )

    async def active(self, now: int) -> dict[str, int]:
        """各窗口里来过的人数。"""
        counts = await self._lean.execute_many(
            [("PFCOUNT", *self._window(window, now)) for window in WINDOWS]
        )
        return {window.name: count for window, count in zip(WINDOWS, counts, strict=True)}

    async def traffic(self, hours: int, now: int) -> list[HourTraffic]:
        """最近 ``hours`` 个小时（连同此刻的一个），早的在前。"""
        wanted = range(now // HOUR_MS - hours + 1, now // HOUR_MS + 1)
        fields = [(hour, f"{hour}:{which}") for hour in wanted for which in ("sent", "received")]
        values = await self._lean.execute_many(
            [("HGET", self._keys.traffic(str(hour // 24)), field) for hour, field in fields]
        )
        numbers = [int(value or 0) for value in values]
        pairs = zip(numbers[::2], numbers[1::2], strict=True)
        return [
            HourTraffic(hour * HOUR_MS, sent, received)
            for hour, (sent, received) in zip(wanted, pairs, strict=True)
        ]

    def _window(self, window: Window, now: int) -> list[str]:
        newest = now // window.grain.width_ms
        return [self._slot(window.grain, newest - back) for back in range(window.slots + 1)]

    def _slot(self, grain: Grain, number: int) -> str:
        return self._keys.active_users(f"{grain.letter}{number}")


class LogCountStore:
    """日志里每一种事件说了几次，全体的；近的按分钟，远的按十分钟、按小时，一格一个哈希。"""

    def __init__(self, lean: LeanConnection, keys: Keys) -> None:
        self._lean = lean
        self._keys = keys

    async def note(self, counts: Mapping[Said, int], at: int) -> None:
        """``at`` 那时又说了这么多次。不幂等：断在半路的，可能多数一遍。"""
        commands: list[tuple[Argument, ...]] = []
        for grain in LOG_GRAINS:
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
