"""主要的数的历史：一分钟一行，两天之后十分钟一行，三十天之后没有了。

一行是一段时间的全部数（JSON），约 0.8 KB；三十天 2,880 + 4,032 行，约 6 MB（SQLite 上量的）。
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import msgspec
from sqlalchemy import delete, func, or_, select, text, tuple_

from .database import Repository
from .tables import stats_history

_h: Final = stats_history.c
_KEEP: Final = text(
    "INSERT INTO mp_stats_history (step_s, at, figures) VALUES (:step_s, :at, :figures)"
    " ON CONFLICT DO NOTHING"
)
_figures: Final = msgspec.json.Decoder(dict[str, float])

#: 名字 → 数；不知道的不在其中。
FigureValues = dict[str, float]


class HistoryRow(NamedTuple):
    """``at``：这一段开始的毫秒，长 ``step_s``。"""

    step_s: int
    at: int
    figures: FigureValues


class StatsHistoryRepository(Repository):
    """错误同 ``Database.transaction``。"""

    async def keep(self, rows: Sequence[HistoryRow]) -> None:
        """记下，一个事务；已有的不动：换了人的那一分钟、钟拨回去的一小时都不会记两遍。"""
        values = [
            {"step_s": row.step_s, "at": row.at, "figures": _encode(row.figures)} for row in rows
        ]
        async with self._database.transaction() as connection:
            await connection.execute(_KEEP, values)

    async def between(
        self, step_s: int, since: int, until: int, limit: int = -1
    ) -> list[HistoryRow]:
        """[since, until) 之内的，早的在前；``limit`` 为负则全部。"""
        statement = (
            select(_h.at, _h.figures)
            .where(_h.step_s == step_s, _h.at >= since, _h.at < until)
            .order_by(_h.at)
        )
        found = await self._database.rows(statement if limit < 0 else statement.limit(limit))
        return [HistoryRow(step_s, at, _figures.decode(figures)) for at, figures in found]

    async def oldest(self, step_s: int) -> int | None:
        """最早的一行的时刻。"""
        at: int | None = await self._database.scalar(
            select(func.min(_h.at)).where(_h.step_s == step_s)
        )
        return at

    async def coarsen(
        self,
        fine_s: int,
        whole: tuple[int, int],
        merge: Callable[[list[FigureValues]], FigureValues],
    ) -> None:
        """``whole`` = (step_s, at)：这一段里细的合成一行，一个事务；早已合过的，细的只是拿掉。"""
        step_s, at = whole
        inside = (_h.step_s == fine_s, _h.at >= at, _h.at < at + step_s * 1_000)
        async with self._database.transaction() as connection:
            found = await connection.scalars(select(_h.figures).where(*inside).order_by(_h.at))
            parts = [_figures.decode(one) for one in found]
            if not parts:
                return
            row = {"step_s": step_s, "at": at, "figures": _encode(merge(parts))}
            await connection.execute(_KEEP, row)
            await connection.execute(delete(stats_history).where(*inside))

    async def purge(self, before: int, after: int, limit: int) -> int:
        """删掉 ``before`` 之前与 ``after`` 之后（钟错过）的，至多 ``limit`` 行；返回几行。"""
        key = tuple_(_h.step_s, _h.at)
        gone = select(_h.step_s, _h.at).where(or_(_h.at < before, _h.at > after)).limit(limit)
        return await self._database.change(delete(stats_history).where(key.in_(gone)))


def _encode(figures: FigureValues) -> str:
    return msgspec.json.encode(figures).decode()
