"""对账的一行：代次、记号、租约、进度。"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import or_, select, text, update
from ulid import ULID

from .database import Database
from .tables import delivery_generation

_g: Final = delivery_generation.c
_CREATE: Final = text(
    "INSERT INTO delivery_generation (id, generation, mark, holder, lease_until, database_id)"
    " VALUES (1, :generation, 0, '', 0, :database_id) ON CONFLICT (id) DO NOTHING"
)


@dataclass(frozen=True, slots=True)
class Generation:
    """``cursor`` 为 None 表示没有重新投递在做；否则做到了那条消息（'' = 还没开始）。"""

    generation: int
    mark: int
    cursor: str | None
    holder: str
    lease_until: int


class GenerationRepository:
    """所有改动都以“我仍持有租约”为条件：租约丢了的节点什么也改不了。"""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, generation: int, database_id: str | None = None) -> bool:
        """第一次使用：建立这一行。返回是否刚建立。"""
        values = {"generation": generation, "database_id": database_id}
        async with self._database.transaction() as connection:
            return (await connection.execute(_CREATE, values)).rowcount == 1

    async def identity(self) -> str | None:
        """这个数据库的 id；还没有这一行则 None。0.1 建的没有 id：现在起一个。"""
        unnamed = update(delivery_generation).where(_g.id == 1, _g.database_id.is_(None))
        async with self._database.transaction() as connection:
            await connection.execute(unnamed.values(database_id=str(ULID())))
            return (await connection.execute(select(_g.database_id))).scalar_one_or_none()

    async def read(self) -> Generation | None:
        columns = (_g.generation, _g.mark, _g.cursor, _g.holder, _g.lease_until)
        async with self._database.connect() as connection:
            row = (await connection.execute(select(*columns))).one_or_none()
        return None if row is None else Generation(*row)

    async def lease(self, holder: str, now: int, lease_ms: int) -> bool:
        """取得或续租。到期时刻离现在远得不合理的（钟跳过）不算数。"""
        free = or_(_g.holder == holder, _g.lease_until < now, _g.lease_until > now + 2 * lease_ms)
        return await self._update(free, holder=holder, lease_until=now + lease_ms)

    async def advance(self, holder: str, mark: int, lease_until: int) -> bool:
        return await self._update(_g.holder == holder, mark=mark, lease_until=lease_until)

    async def begin(self, holder: str, generation: int) -> bool:
        """新的一代，从头重新投递。"""
        return await self._update(_g.holder == holder, generation=generation, mark=0, cursor="")

    async def move_cursor(self, holder: str, cursor: str | None, lease_until: int) -> bool:
        return await self._update(_g.holder == holder, cursor=cursor, lease_until=lease_until)

    async def _update(self, condition: Any, **values: object) -> bool:
        statement = update(delivery_generation).where(_g.id == 1, condition).values(**values)
        async with self._database.transaction() as connection:
            return (await connection.execute(statement)).rowcount == 1
