"""调用者自己的事务：应用交来的，我们的语句在里面执行。

提交、回滚、关闭都是应用的事。它的引擎不是我们的，所以换名字的监听挂在这一条连接上，用完就取下。
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from ..errors import InvalidInputError
from .database import Database
from .failures import converted_failures
from .naming import named

#: 应用交来的。
CallerTransaction = AsyncConnection | AsyncSession


@asynccontextmanager
async def connection_of(
    caller: CallerTransaction, database: Database
) -> AsyncIterator[AsyncConnection]:
    """在调用者的事务里执行我们的语句；我们从不提交它。

    :raises InvalidInputError: 它连的不是同一种数据库
    :raises DatabaseUnavailableError: 语句没有执行；调用者的事务多半只能回滚
    """
    with converted_failures():
        connection = await caller.connection() if isinstance(caller, AsyncSession) else caller
        if (connection.dialect.name == "sqlite") is not database.is_sqlite:
            raise InvalidInputError("the transaction is on another kind of database")
        assert connection.sync_connection is not None, "begun by the caller"
        with named(connection.sync_connection, database.naming):
            yield connection
