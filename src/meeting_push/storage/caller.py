"""调用者自己的事务：应用交来的，我们的语句在里面执行。

提交、回滚、关闭都是应用的事。它的引擎不是我们的，所以换名字的监听挂在这一条连接上，用完就取下。
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from sqlalchemy import Connection, event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from ..errors import InvalidInputError
from .database import Database
from .failures import converted_failures
from .naming import Naming

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


@contextmanager
def named(connection: Connection, naming: Naming) -> Iterator[None]:
    """这一会儿，这条连接上我们的语句说 ``naming`` 的名字。"""
    if naming.is_default:
        yield
        return
    event.listen(connection, "before_cursor_execute", naming.before, retval=True)
    try:
        yield
    finally:
        event.remove(connection, "before_cursor_execute", naming.before)
