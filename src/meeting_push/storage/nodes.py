"""谁在服务：每个进程一行，按数据库的钟；写这一行也就是“SQL 收得下写入”的证明。"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NamedTuple

from sqlalchemy import text

from .database import Connection, Database
from .tables import metadata

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
_UPSERT: Final = (
    "INSERT INTO nodes"
    " (node_id, role, version, hears, joined, signs, started_at, beat_at)"
    " VALUES (:node_id, :role, :version, :hears, :joined, :signs, :started_at, <now>)"
    " ON CONFLICT (node_id) DO UPDATE SET hears = excluded.hears, joined = excluded.joined,"
    " signs = excluded.signs, beat_at = excluded.beat_at"
)
_FORGET: Final = "DELETE FROM nodes WHERE beat_at < <now> - 3600000"
_READ: Final = (
    "SELECT <now> AS now, node_id, role, version, hears, joined, signs, started_at FROM nodes"
    " WHERE node_id = :me OR beat_at > <now> - 5000"
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
            await self._database.write_sqlite([(forget, ()), (upsert, me)])
            async with self._database.connect() as connection:
                return await self._roster(connection, me.node_id)
        async with self._database.transaction() as connection:
            for statement in (_NOTHING, forget):
                await connection.execute(text(statement))
            await connection.execute(text(self._at_now(_UPSERT)), me._asdict())
            return await self._roster(connection, me.node_id)

    def _at_now(self, statement: str) -> str:
        return statement.replace("<now>", self._now)

    async def _roster(self, connection: Connection, me: str) -> Roster:
        rows = (await connection.execute(text(self._at_now(_READ)), {"me": me})).all()
        others = [NodeRow(*row[1:]) for row in rows if row.node_id != me]
        return Roster(int(rows[0].now), tuple(others))

    async def withdraw(self, node_id: str) -> None:
        """从容离开：不再算在服务的里面。"""
        async with self._database.transaction() as connection:
            await connection.execute(text("DELETE FROM nodes WHERE node_id = :me"), {"me": node_id})
