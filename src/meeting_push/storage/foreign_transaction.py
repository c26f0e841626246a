"""调用者自己的 SQLAlchemy 事务，在同一个数据库上。"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from ..errors import InvalidInputError
from .failures import converted_failures

#: 应用交来的；提交、回滚、关闭都是应用的事。
CallerTransaction = AsyncConnection | AsyncSession


@asynccontextmanager
async def connection_of(
    caller: CallerTransaction, *, sqlite: bool
) -> AsyncIterator[AsyncConnection]:
    """在调用者的事务里执行我们的语句；我们从不提交它。

    :raises InvalidInputError: 它连的不是同一种数据库
    :raises DatabaseUnavailableError: 语句没有执行；调用者的事务多半只能回滚
    """
    with converted_failures():
        connection = await caller.connection() if isinstance(caller, AsyncSession) else caller
        if (connection.dialect.name == "sqlite") is not sqlite:
            raise InvalidInputError("the transaction is on another kind of database")
        yield connection
