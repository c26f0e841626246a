"""主要的数，一分钟记一行进 SQL：没有 Prometheus 也有历史。

各进程都攒着，评估告警的那一个写：换了人，那一分钟仍是完整的，也不会写两遍。SQL 不在，一分钟
一分钟留在内存里，回来了补上。两天之前的合成十分钟一行，三十天之前的删掉，一次一小步。
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from functools import partial
from itertools import islice
from typing import Final, NamedTuple

from ..clock import Clock
from ..errors import InvalidInputError, UnavailableError
from ..logs import RepeatedWarning
from ..storage.stats_history import FigureValues, HistoryRow, StatsHistoryRepository
from ..supervision import periodically, summoned
from .figures import FIGURES, Figure, Seen, over, reading
from .metrics import Sample

FINE_S: Final = 60
COARSE_S: Final = 600
DAY_MS: Final = 86_400_000
#: 细的留多久，一共留多久。
FINE_MS: Final = 2 * DAY_MS
KEPT_MS: Final = 30 * DAY_MS
#: SQL 不在时留着的分钟，约 2 MB；再多丢最早的。
MAX_WAITING: Final = 720
_BATCH: Final = 60
#: 一步合几段、删几行。
_COARSEN: Final = 6
_PURGE: Final = 500
#: 比此刻晚这么多的是钟错的时候记的。
_FUTURE_MS: Final = DAY_MS
#: 评估没有这么久不看：两次相隔更久的，不知道中间怎样。
_MAX_WINDOW_S: Final = 6 * 3_600


class MinuteRoll:
    """攒一分钟，到头是一行。"""

    def __init__(self, figures: Mapping[str, Figure]) -> None:
        self._figures = figures
        self._minute: int | None = None
        self._read: defaultdict[str, list[float]] = defaultdict(list)
        self._counted_at: float | None = None
        self._was_alone = False

    def saw(self, seen: Seen, now: int) -> HistoryRow | None:
        """记一轮；上一分钟到头了，就是它的一行。"""
        if seen.whole:
            self._was_alone = len(seen.reports) <= 1
        #: 别的进程此刻看不见：大家的数不知道。一直只有自己的，自己就是大家。
        known = seen.whole or self._was_alone
        minute = now // (FINE_S * 1_000)
        row = None
        if self._minute is not None and minute != self._minute:
            row = HistoryRow(FINE_S, self._minute * FINE_S * 1_000, self._close(seen, known))
        self._minute = minute
        if self._counted_at is None:
            self._counted_at = seen.at
        if known:
            self._note(seen)
        return row

    def _note(self, seen: Seen) -> None:
        for name, figure in self._figures.items():
            value = reading(figure.value, seen)
            if value is not None:
                self._read[name].append(value)

    def _close(self, seen: Seen, known: bool) -> FigureValues:
        read, self._read = self._read, defaultdict(list)
        values = {name: _merged(self._figures[name], found) for name, found in read.items()}
        counted_at = self._counted_at
        if known and counted_at is not None and seen.at > counted_at:
            self._counted_at = seen.at
            window_s = min(seen.at - counted_at, _MAX_WINDOW_S)
            for name, figure in self._figures.items():
                value = over(figure.value, seen, window_s)
                if value is not None:
                    values[name] = value
        return {name: float(f"{value:.6g}") for name, value in values.items()}


def _merged(figure: Figure, found: Sequence[float]) -> float:
    return max(found) if figure.how == "max" else sum(found) / len(found)


def merge(figures: Mapping[str, Figure], parts: Iterable[FigureValues]) -> FigureValues:
    """几行合成一行；不再有的数不要。"""
    found: defaultdict[str, list[float]] = defaultdict(list)
    for part in parts:
        for name, value in part.items():
            found[name].append(value)
    return {
        name: float(f"{_merged(figures[name], values):.6g}")
        for name, values in found.items()
        if name in figures
    }


class StatsHistory:
    """写的一边。``saw`` 由评估的循环每轮叫；``run`` 须由监督者一直运行。"""

    def __init__(
        self,
        records: StatsHistoryRepository,
        *,
        clock: Clock,
        agreed: Callable[[], Awaitable[int]],
        figures: Mapping[str, Figure] = FIGURES,
    ) -> None:
        """``agreed``：大家一致的此刻，给收不回来的事用（见 ``AgreedClock.agreed``）。"""
        self._records = records
        self._clock = clock
        self._agreed = agreed
        self._figures = figures
        self._roll = MinuteRoll(figures)
        self._waiting: dict[int, HistoryRow] = {}
        self._leads = False
        self._wake = asyncio.Event()
        self._deferred = RepeatedWarning("stats_history_deferred")
        self._written = self._dropped = 0

    def saw(self, seen: Seen) -> None:
        """评估的一轮；不碰 SQL。"""
        row = self._roll.saw(seen, self._clock())
        self._leads = seen.firing is not None
        if row is None or not self._leads:
            return
        self._waiting.setdefault(row.at, row)
        while len(self._waiting) > MAX_WAITING:
            del self._waiting[next(iter(self._waiting))]
            self._dropped += 1
        self._wake.set()

    async def run(self) -> None:
        """监督者运行的循环体；永不返回。"""
        pause = partial(summoned, self._wake, FINE_S)
        await periodically(self.step, pause, self._deferred)

    async def step(self) -> None:
        """写下攒着的，再清理一小步。

        :raises DatabaseUnavailableError: 没有写的留着
        """
        while self._waiting:
            batch = dict(islice(self._waiting.items(), _BATCH))
            await self._records.keep(list(batch.values()))
            self._written += len(batch)
            for at in batch:
                self._waiting.pop(at, None)
        if self._leads:
            await self._tidy()

    async def _tidy(self) -> None:
        now = None
        with contextlib.suppress(UnavailableError):  # 不知道几点就不删
            now = await self._agreed()
        if now is None:
            return
        for _ in range(_COARSEN):
            oldest = await self._records.oldest(FINE_S)
            if oldest is None or oldest >= _floor(now - FINE_MS, COARSE_S):
                break
            await self._records.coarsen(
                FINE_S, (COARSE_S, _floor(oldest, COARSE_S)), partial(merge, self._figures)
            )
        await self._records.purge(now - KEPT_MS, now + _FUTURE_MS, _PURGE)

    def samples(self) -> Iterator[Sample]:
        text = "minutes of figures written to the database"
        yield Sample("stats_history_rows_written", "counter", text, self._written)
        text = "minutes given up: the database was away for too long"
        yield Sample("stats_history_rows_dropped", "counter", text, self._dropped)


# ── 读 ──────────────────────────────────────────────────────────────────────

MAX_POINTS: Final = 1_500
#: 没有说从何时起，就是最近这么久。
DEFAULT_SPAN_MS: Final = 3_600_000
_STEPS_S: Final = (60, 120, 300, 600, 1_200, 1_800, 3_600)
#: 合了这么多行让别人一次：一个月有七千行。
_SLICE: Final = 200


class HistorySlice(NamedTuple):
    """各列一样长；None：那一段不知道。"""

    step_s: int
    at: list[int]
    figures: dict[str, list[float | None]]


class HistoryReader:
    """读的一边；错误同 ``Database.transaction``。"""

    def __init__(
        self,
        records: StatsHistoryRepository,
        clock: Clock,
        figures: Mapping[str, Figure] = FIGURES,
    ) -> None:
        self.figures = figures
        self._records = records
        self._clock = clock

    async def read(
        self, names: Sequence[str], since: int | None = None, until: int | None = None
    ) -> HistorySlice:
        """``names`` 空即全部；时刻是毫秒。

        :raises InvalidInputError: 不认识的数，或 ``since`` 不早于 ``until``
        """
        unknown = sorted(set(names) - self.figures.keys())
        if unknown:
            raise InvalidInputError("unknown figures", details={"figures": unknown[:20]})
        now = self._clock()
        until = now if until is None else min(until, now)
        since = until - DEFAULT_SPAN_MS if since is None else max(since, now - KEPT_MS)
        if since >= until:
            raise InvalidInputError("since must be before until (and not in the future)")
        step_s = _step(since, until, now)
        wanted = list(dict.fromkeys(names)) or list(self.figures)
        at = list(range(_floor(since, step_s), until, step_s * 1_000))
        return HistorySlice(step_s, at, await self._columns(wanted, at, step_s))

    async def _columns(
        self, names: Sequence[str], at: Sequence[int], step_s: int
    ) -> dict[str, list[float | None]]:
        step_ms = step_s * 1_000
        cells: dict[str, list[list[float] | None]] = {name: [None] * len(at) for name in names}
        count = 0
        async for row in self._rows(at[0], at[-1] + step_ms):
            index = (row.at - at[0]) // step_ms
            for name in names:
                if (value := row.figures.get(name)) is not None:
                    column = cells[name]
                    if (cell := column[index]) is None:
                        column[index] = [value]
                    else:
                        cell.append(value)
            count += 1
            if count % _SLICE == 0:
                await asyncio.sleep(0)
        return {
            name: [None if cell is None else _merged(self.figures[name], cell) for cell in column]
            for name, column in cells.items()
        }

    async def _rows(self, since: int, until: int) -> AsyncIterator[HistoryRow]:
        """粗的与细的；一页一页读。"""
        for step_s in (COARSE_S, FINE_S):
            start: int | None = since
            while start is not None:
                page = await self._records.between(step_s, start, until, _SLICE)
                for row in page:
                    yield row
                start = page[-1].at + 1 if len(page) == _SLICE else None


def _step(since: int, until: int, now: int) -> int:
    """一格多宽：两天之前没有细的；格数至多 ``MAX_POINTS``。"""
    finest = FINE_S if since >= now - FINE_MS else COARSE_S
    wanted = max(finest, (until - since) / 1_000 / (MAX_POINTS - 1))
    return next(step for step in _STEPS_S if step >= wanted)


def _floor(at: int, step_s: int) -> int:
    return at - at % (step_s * 1_000)
