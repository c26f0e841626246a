"""中间有按事务复用连接的池（PgBouncer ``pool_mode=transaction``）时，怎样与 PostgreSQL 说话（B7）。

每个事务可能在另一条后台连接上：有名的预备语句找不到（26000）或撞名（42P05），事务之外的一问一答
也可能分在两条上。所以：不留预备语句，只用无名的；读也在事务里。代价是每条语句多解析一次，所以
没有池的时候不这样。
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

#: 交给 ``asyncpg.connect()``（后两个 SQLAlchemy 自己拿走）。
POOLED: Final[dict[str, Any]] = {
    "statement_cache_size": 0,
    "prepared_statement_cache_size": 0,
    "prepared_statement_name_func": str,  # str() 是空串：无名
}
_PID: Final = text("SELECT pg_backend_pid()")


def asks_for_it(arguments: dict[str, Any]) -> bool:
    """URL 里写了 ``statement_cache_size=0``：照大家对 PgBouncer 的写法，就是说有池。"""
    return 0 in (
        arguments.get("statement_cache_size"),
        arguments.get("prepared_statement_cache_size"),
    )


async def is_behind_one(engine: AsyncEngine) -> bool:
    """握手时说的后台进程号与真的不同：中间有池。``engine`` 须是 ``POOLED`` 的，问的这句才稳当。"""
    async with engine.connect() as connection:
        actual = await connection.scalar(_PID)
        raw = (await connection.get_raw_connection()).driver_connection
        assert raw is not None, "connected above"
        return bool(raw.get_server_pid() != actual)
