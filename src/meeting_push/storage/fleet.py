"""各进程共同的约定：谁在服务，数据的代次与谁在对账。"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from sqlalchemy import or_, select, text, true, update
from ulid import ULID

from .database import Database, Repository, SqlConnection
from .tables import delivery_generation, metadata

#: 每张表插零行：要有权限、等得到锁、库不是只读，而什么也没有留下；一句话，一次往返。
#: SQLite 的锁是整个文件的，写自己的一行就够了。
_NOTHING: Final = "WITH {} SELECT 1".format(
    ", ".join(
        "<table>_ AS (INSERT INTO <table> SELECT * FROM <table> WHERE 1 = 0)".replace(
            "<table>", name
        )
        for name in sorted(metadata.tables)
    )
)
#: 这么久之内有心跳的算在服务，毫秒。
ALIVE_MS: Final = 5_000
_UPSERT: Final = (
    "INSERT INTO mp_nodes"
    " (node_id, role, version, hears, joined, signs, started_at, beat_at)"
    " VALUES (:node_id, :role, :version, :hears, :joined, :signs, :started_at, <now>)"
    " ON CONFLICT (node_id) DO UPDATE SET hears = excluded.hears, joined = excluded.joined,"
    " signs = excluded.signs, beat_at = excluded.beat_at"
)
_FORGET: Final = "DELETE FROM mp_nodes WHERE beat_at < <now> - 3600000"
_READ: Final = (
    "SELECT <now> AS now, node_id, role, version, hears, joined, signs, started_at FROM mp_nodes"
    " WHERE node_id = :me OR beat_at > <dead>"
)
#: 数据库的钟，毫秒。
_SQLITE_NOW: Final = "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"
_PG_NOW: Final = "CAST(extract(epoch from clock_timestamp()) * 1000 AS BIGINT)"


class NodeRow(NamedTuple):
    """``hears``：写得进 Redis，（有连接的）也听得见。``signs``：签名钥匙的指纹，不签则空。"""

    node_id: str
    role: str
    version: str
    hears: bool
    joined: bool
    signs: str
    started_at: int


@dataclass(frozen=True, slots=True)
class Roster:
    """此刻在服务的别人，与数据库的钟（毫秒）。"""

    now: int
    others: tuple[NodeRow, ...]


class NodeRepository:
    def __init__(self, database: Database) -> None:
        self._database = database
        #: SQLite 的钟就是我们自己的，比不出什么。
        self.shares_our_clock: Final = database.is_sqlite
        self._now = _SQLITE_NOW if database.is_sqlite else _PG_NOW

    async def beat(self, me: NodeRow) -> Roster:
        """写下自己的一行（一个提交了的事务，接受要写的表都碰过），读 5 秒之内写过的别人。

        :raises DatabaseUnavailableError: 现在收不下写入；``cause`` 说为什么
        """
        forget = self._at_now(_FORGET)
        if self._database.is_sqlite:
            upsert = re.sub(r":\w+", "?", self._at_now(_UPSERT))
            await self._database.write_sqlite([(forget, ()), (upsert, me)], patient=True)
            async with self._database.connect() as connection:
                return await self._roster(connection, me.node_id)
        async with self._database.transaction() as connection:
            for statement in (_NOTHING, forget):
                await connection.execute(text(statement))
            await connection.execute(text(self._at_now(_UPSERT)), me._asdict())
            return await self._roster(connection, me.node_id)

    def _at_now(self, statement: str) -> str:
        return statement.replace("<dead>", f"<now> - {ALIVE_MS}").replace("<now>", self._now)

    async def _roster(self, connection: SqlConnection, me: str) -> Roster:
        rows = (await connection.execute(text(self._at_now(_READ)), {"me": me})).all()
        others = [NodeRow(*row[1:]) for row in rows if row.node_id != me]
        return Roster(int(rows[0].now), tuple(others))

    async def alive(self) -> int:
        """此刻几个进程在服务。"""
        statement = text(self._at_now("SELECT count(*) FROM mp_nodes WHERE beat_at > <dead>"))
        return int(await self._database.scalar(statement) or 0)

    async def withdraw(self, node_id: str) -> None:
        """从容离开：不再算在服务的里面。"""
        await self._database.change(
            text("DELETE FROM mp_nodes WHERE node_id = :me"), {"me": node_id}
        )


# ── 代次 ─────────────────────────────────────────────────────────────────────

_g: Final = delivery_generation.c
_CREATE: Final = text(
    "INSERT INTO mp_delivery_generation (id, generation, mark, holder, lease_until, database_id)"
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


class GenerationRepository(Repository):
    """所有改动都以“我仍持有租约”为条件：租约丢了的节点什么也改不了。"""

    async def create(self, generation: int, database_id: str | None = None) -> bool:
        """第一次使用：建立这一行。返回是否刚建立。"""
        values = {"generation": generation, "database_id": database_id}
        return await self._database.change(_CREATE, values) == 1

    async def identity(self) -> str | None:
        """这个数据库的 id；还没有这一行则 None。0.1 建的没有 id：现在起一个。"""
        unnamed = update(delivery_generation).where(_g.id == 1, _g.database_id.is_(None))
        async with self._database.transaction() as connection:
            await connection.execute(unnamed.values(database_id=str(ULID())))
            return (await connection.execute(select(_g.database_id))).scalar_one_or_none()

    async def read(self) -> Generation | None:
        columns = (_g.generation, _g.mark, _g.cursor, _g.holder, _g.lease_until)
        row = await self._database.row(select(*columns))
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

    async def renew(self, holder: str, generation: int) -> bool:
        """新的一代，数据照旧：不重新投递。"""
        return await self._update(_g.holder == holder, generation=generation, mark=0)

    async def move_cursor(self, holder: str, cursor: str | None, lease_until: int) -> bool:
        return await self._update(_g.holder == holder, cursor=cursor, lease_until=lease_until)

    async def restored(self, *, another: bool = False) -> None:
        """记录是从备份放回的：与 Redis 里的对不上，启动后重新投递。

        ``another``：换一个 id，先前那个留在 Redis 里的都清掉。
        """
        values: dict[str, object] = {"generation": _g.generation + 1, "lease_until": 0}
        if another:
            values["database_id"] = str(ULID())
        await self._update(true(), holder="", **values)

    async def _update(self, condition: Any, **values: object) -> bool:
        statement = update(delivery_generation).where(_g.id == 1, condition).values(**values)
        return await self._database.change(statement) == 1
