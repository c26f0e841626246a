"""人的一段字与它的号：一段字只有一个号，几个进程同时来认也一样。"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import Any, Final

import msgspec
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from ..errors import PeopleLimitError
from ..person_id import NOBODY
from .database import Repository
from .id_list import among
from .tables import people

DAY_MS: Final = 86_400_000
# 先排好序：两个事务以不同的次序占同样的几个，会互相等
_SQLITE_ADD: Final = text(
    "INSERT INTO mp_people (outer_id, created_at, created_by)"
    " SELECT value, :now, :by FROM json_each(:ids) WHERE true"
    " ON CONFLICT (outer_id) DO NOTHING"
)
_PG_ADD: Final = text(
    "INSERT INTO mp_people (outer_id, created_at, created_by)"
    " SELECT v, CAST(:now AS bigint), CAST(:by AS bigint)"
    " FROM unnest(CAST(:ids AS varchar[])) AS v"
    " ON CONFLICT (outer_id) DO NOTHING"
)
_SQLITE_NUMBERS: Final = (
    "SELECT outer_id, id FROM mp_people WHERE outer_id IN (SELECT value FROM json_each(?))"
)


def digest_of(person: str) -> str:
    """抹掉了的人的那段字只留下它：认得出是他，说不出是谁。"""
    return hashlib.sha256(person.encode()).hexdigest()


class PeopleRepository(Repository):
    """号是这一行的 ``id`` 加 ``NOBODY``；删掉的不再发给别人。"""

    async def numbers(self, persons: Collection[str]) -> dict[str, int]:
        """记着的那些的号；抹掉了的也在其中：那个号永远作废，那段字不会成为新的人。"""
        found = await self._known(persons)
        erased = {digest_of(one): one for one in persons if one not in found}
        if erased:
            for digest, number in (await self._known(erased)).items():
                found[erased[digest]] = number
        return found

    async def _known(self, persons: Collection[str]) -> dict[str, int]:
        if self._database.is_sqlite:
            listed = msgspec.json.encode(list(persons)).decode()
            rows = await self._database.read_sqlite((_SQLITE_NUMBERS, (listed,)))
            return {person: NOBODY + number for person, number in rows}
        async with self._database.connect() as connection:
            return await self._numbers(connection, persons)

    async def persons(self, numbers: Collection[int]) -> dict[int, str]:
        """号 → 一段字；没有的不出现。"""
        ids = [number - NOBODY for number in numbers]
        statement = select(people.c.id, people.c.outer_id).where(
            among(self._database, people.c.id, ids)
        )
        rows = await self._database.rows(statement)
        return {NOBODY + row.id: row.outer_id for row in rows}

    async def newest(self, limit: int) -> dict[str, int]:
        """最近认识的至多 ``limit`` 个，旧的在前。"""
        statement = select(people.c.id, people.c.outer_id).order_by(people.c.id.desc()).limit(limit)
        rows = await self._database.rows(statement)
        return {row.outer_id: NOBODY + row.id for row in reversed(rows)}

    async def add(
        self, persons: Collection[str], now: int, by: int | None = None, most_a_day: int = 0
    ) -> dict[str, int]:
        """各给一个号（已有的还是原来的），返回全部；原子。

        :param by: 是谁发给了他们；None：不数
        :raises PeopleLimitError: ``by`` 一天之内带来的超过 ``most_a_day`` 个；一个也没有加
        """
        async with self._database.transaction() as connection:
            if by is not None:
                await self._check(connection, by, len(set(persons)), now, most_a_day)
            return await self.add_within(connection, persons, now, by)

    async def add_within(
        self, connection: AsyncConnection, persons: Collection[str], now: int, by: int | None = None
    ) -> dict[str, int]:
        """同 ``add``，在 ``connection`` 的事务里，不数。"""
        ids = sorted(set(persons))
        listed: Any = msgspec.json.encode(ids).decode() if self._database.is_sqlite else ids
        statement = _SQLITE_ADD if self._database.is_sqlite else _PG_ADD
        await connection.execute(statement, {"ids": listed, "now": now, "by": by})
        return await self._numbers(connection, ids)

    async def _check(
        self, connection: AsyncConnection, by: int, more: int, now: int, most: int
    ) -> None:
        counted = select(func.count()).where(
            people.c.created_by == by, people.c.created_at > now - DAY_MS
        )
        if (await connection.scalar(counted) or 0) + more > most:
            raise PeopleLimitError(most)

    async def _numbers(
        self, connection: AsyncConnection, persons: Collection[str]
    ) -> dict[str, int]:
        statement = select(people.c.outer_id, people.c.id).where(
            among(self._database, people.c.outer_id, list(persons))
        )
        rows = await connection.execute(statement)
        return {person: NOBODY + number for person, number in rows}
